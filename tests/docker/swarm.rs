//! Volumes as Swarm uses them: the files of docs/compose.md, and the commands that the page shows.

use std::fs;

use crate::Case;
use crate::daemon::wait;
use crate::page;
use crate::swarm_world::Swarm;

pub(crate) const CASES: &[Case] =
    &[("swarm-stack", stack), ("swarm-update-order", update_order), ("swarm-on-every-node", on_every_node)];

/// Appended to the page's files: the hosts' networks, because nothing here filters packets.
const NETWORK: &str = "networks:\n  default: {name: host, external: true}\n";

/// Deploys a file of the page.
fn deploy(swarm: &Swarm, name: &str, line: &str) {
    page::write(name, &swarm.dir);
    let text =
        page::file(name).replace("    image: alpine\n", "    image: alpine\n    stop_signal: SIGKILL\n");
    fs::write(swarm.dir.join(name), text + NETWORK).expect("the file can be written");
    swarm.line(&line.replace("deploy ", "deploy --resolve-image never "));
}

/// A stack's volume is made where its task starts, follows the task to the next node, and can be
/// removed on every node.
fn stack(case: &str) {
    let swarm = Swarm::new(case);
    deploy(&swarm, "stack.yaml", "docker stack deploy -c stack.yaml shop");
    let first = swarm.wait_moved("shop_db", "shop_data", "");
    let inspected =
        first.engine.ok(&["volume", "inspect", "-f", "{{.Status.size}} {{.Status.fstype}}", "shop_data"]);
    assert_eq!(inspected, "1G ext4\n");
    swarm.exec(first, "shop_db", "echo kept > /data/file");

    // An update that stops the old task first, as Swarm does unless told otherwise.
    swarm.line("docker service update --force shop_db");
    let now = swarm.wait_moved("shop_db", "shop_data", "");
    assert_eq!(swarm.exec(now, "shop_db", "cat /data/file"), "kept\n");

    // The task moves when its node is drained.
    swarm.manager().ok(&["node", "update", "--availability", "drain", now.name]);
    let next = swarm.wait_moved("shop_db", "shop_data", now.name);
    assert_eq!(swarm.exec(next, "shop_db", "cat /data/file"), "kept\n");
    assert_eq!(swarm.images().len(), 1);
    swarm.manager().ok(&["node", "update", "--availability", "active", now.name]);

    swarm.line("docker stack rm shop");
    swarm.wait_idle();
    assert_eq!(swarm.images().len(), 1, "the volume outlives the stack");
    let [first, others @ ..] = &swarm.nodes[..] else { panic!("no nodes") };
    first.engine.ok(&["volume", "rm", "shop_data"]);
    for node in others {
        assert_eq!(node.engine.ok(&["volume", "ls", "-q"]), "", "{}", node.name);
        let said = node.engine.fails(&["volume", "rm", "shop_data"]);
        assert!(said.contains("no such volume"), "{said}");
    }
    assert!(swarm.images().is_empty());
    swarm.finish();
}

/// A task that starts before the old one has stopped shares its mount on the same node, and is told
/// who has the volume on another.
fn update_order(case: &str) {
    let swarm = Swarm::new(case);
    deploy(&swarm, "stack.yaml", "docker stack deploy -c stack.yaml shop");
    let old = swarm.wait_moved("shop_db", "shop_data", "");
    let before = swarm.containers(old, "shop_db");
    let here = format!("node.hostname=={}", old.name);
    let update = ["service", "update", "-d", "--update-order", "start-first"];
    swarm.manager().ok(&[&update[..], &["--force", "--constraint-add", &here, "shop_db"]].concat());
    wait("the new task to have taken the old one's place", || {
        let now = swarm.containers(old, "shop_db");
        now.len() == 1 && now != before
    });
    assert_eq!(swarm.mounted_on("shop_data"), [old.name]);
    swarm.exec(old, "shop_db", "echo kept > /data/file");

    let other = swarm.nodes.iter().find(|node| node.name != old.name).expect("another node");
    let there = format!("node.hostname=={}", other.name);
    let moved = ["--constraint-rm", &here, "--constraint-add", &there, "shop_db"];
    swarm.manager().ok(&[&update[..], &moved].concat());
    let said = format!("in use by plugin \"rbd\" on host {}", old.name);
    wait(&format!("the new task to be told who has the volume ({said})"), || {
        swarm.tasks("shop_db").contains(&said)
    });
    assert_eq!(swarm.mounted_on("shop_data"), [old.name]);
    assert_eq!(swarm.exec(old, "shop_db", "cat /data/file"), "kept\n", "the old task goes on");

    swarm.manager().ok(&["service", "update", "-d", "--update-order", "stop-first", "--force", "shop_db"]);
    let now = swarm.wait_moved("shop_db", "shop_data", old.name);
    assert_eq!(swarm.exec(now, "shop_db", "cat /data/file"), "kept\n");
    swarm.finish();
}

/// Every node makes the same volume at the same moment: all succeed, there is one image, and one
/// node at a time has it.
fn on_every_node(case: &str) {
    let swarm = Swarm::new(case);
    let names: Vec<String> = (0..5).map(|n| format!("race{n}")).collect();
    for name in &names {
        std::thread::scope(|scope| {
            for node in &swarm.nodes {
                scope.spawn(|| node.engine.ok(&["volume", "create", "-d", "rbd", "-o", "size=32M", name]));
            }
        });
    }
    assert_eq!(swarm.images().len(), names.len());

    // What one node uses no other node removes.
    let [first, others @ ..] = &swarm.nodes[..] else { panic!("no nodes") };
    let run =
        ["run", "-d", "--name", "user", "--network", "none", "-v", "race1:/data", "alpine", "sleep", "1000"];
    first.engine.ok(&run);
    for node in others {
        let refused = node.engine.fails(&["volume", "rm", "race1"]);
        let who = format!("race1.img is in use by plugin \"rbd\" on host {}", first.name);
        assert!(refused.contains(&who), "{refused}");
    }
    first.engine.ok(&["rm", "-f", "user"]);

    // One volume of all nodes: the task that comes first has it.
    let create = ["service", "create", "-d", "--no-resolve-image", "--mode", "global", "--network", "host"];
    let script = ["--restart-condition", "none", "--stop-signal", "KILL", "alpine", "sleep", "1000"];
    let mount = [
        "--name",
        "one",
        "--mount",
        "type=volume,source=race0,target=/data,volume-driver=rbd,volume-opt=size=32M",
    ];
    swarm.manager().ok(&[&create[..], &mount, &script].concat());
    let refused = || swarm.tasks("one").matches("in use by plugin").count();
    wait("the tasks of two nodes to be refused", || refused() == 2);
    let [holder] = swarm.mounted_on("race0")[..] else { panic!("{}", swarm.tasks("one")) };
    assert_eq!(swarm.tasks("one").matches(&format!("on host {holder}")).count(), 2, "{}", swarm.tasks("one"));
    swarm.remove_service("one");

    // The same on one line, as the page has it.
    swarm.line(
        r#"docker service create --name db --mount 'type=volume,source=data,target=/data,volume-driver=rbd,volume-opt=size=1G,"volume-opt=mount-options=noatime,nodiratime"' alpine sleep 1000"#,
    );
    let node = swarm.wait_moved("db", "data", "");
    assert_eq!(
        node.engine.ok(&[
            "volume",
            "inspect",
            "-f",
            "{{.Status.size}} {{index .Status.options \"mount-options\"}}",
            "data"
        ]),
        "1G noatime,nodiratime\n"
    );
    swarm.manager().ok(&["service", "rm", "db"]);
    // The first process of a container hears no SIGTERM that it does not ask for.
    swarm.containers(node, "db").iter().for_each(|container| drop(node.engine.docker(&["kill", container])));
    swarm.wait_idle();

    // A volume for each replica, made by its number.
    deploy(&swarm, "replicas.yaml", "docker stack deploy -c replicas.yaml caches");
    let running = || swarm.tasks("caches_cache").matches("Running").count();
    wait("a task to run on every volume", || running() == 3);
    for n in 1..=3 {
        assert_eq!(swarm.mounted_on(&format!("cache-{n}")).len(), 1, "{}", swarm.tasks("caches_cache"));
    }
    swarm.line("docker stack rm caches");
    swarm.wait_idle();
    swarm.finish();
}
