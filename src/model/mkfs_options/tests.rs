use proptest::prelude::*;

use super::*;

fn check(kind: FsKind, line: &str) -> Result<()> {
    check_options(kind, &line.split(' ').filter(|w| !w.is_empty()).map(str::to_owned).collect::<Vec<_>>())
}

#[test]
fn what_shapes_the_filesystem_is_allowed() {
    for (kind, lines) in [
        (
            FsKind::Ext4,
            &[
                "",
                "-b 4096 -O ^has_journal",
                "-qLdata",
                "-E stride=8,stripe_width=16",
                "-J size=16",
                "-t ext4",
                "-i 8192 -N 5000",
                "-L name",
            ][..],
        ),
        (
            FsKind::Xfs,
            &[
                "-b size=4096",
                "-m crc=1,reflink=0",
                "-n size=8192 -L data",
                "-l size=64m,internal=1",
                "-d agcount=4",
                "-ssize=4096",
            ],
        ),
        (
            FsKind::Btrfs,
            &[
                "-M",
                "--label data --nodesize=16384",
                "-m single -d single",
                "--csum xxhash",
                "-O ^no-holes",
                "-qKL data",
            ],
        ),
    ] {
        for line in lines {
            check(kind, line).unwrap();
        }
    }
}

#[test]
fn what_could_do_harm_is_refused() {
    for (kind, lines) in [
        (
            FsKind::Ext4,
            &[
                "-n",
                "-F",
                "-qF",
                "-S",
                "-U random",
                "-d data",
                "-d /root",
                "-J device=UUID=1",
                "-Jdevice=x",
                "-O journal_dev",
                "-O extent,journal_dev",
                "-E offset=512",
                "-l bad",
                "-z undo",
                "-M x",
                "-c",
                "LABEL=other",
                "sdb",
                "-b",
                "--",
                "-",
                "-t ext3",
                "-L /x",
                "-E",
                "--help",
                "-V",
            ][..],
        ),
        (
            FsKind::Xfs,
            &[
                "-N",
                "-f",
                "-m uuid=x",
                "-m crc=1,uuid=x",
                "-l logdev=sdb",
                "-l internal=0",
                "-r rtdev=x",
                "-r x",
                "-p proto",
                "-c options=x",
                "-d name=x",
                "-d file",
                "-d file=1,name=x",
                "--label=x",
                "x",
            ],
        ),
        (
            FsKind::Btrfs,
            &[
                "-f",
                "--force",
                "-U x",
                "--uuid=x",
                "-r dir",
                "--rootdir=x",
                "--shrink",
                "loop0",
                "--lab x",
                "--label",
                "-V",
                "-qf",
                "--label=/x",
            ],
        ),
    ] {
        for line in lines {
            let e = check(kind, line).expect_err(line);
            assert_eq!(e.kind, crate::model::error::ErrorKind::Invalid, "{kind} {line}: {e}");
        }
    }
    assert!(check_options(FsKind::Ext4, &[String::new()]).is_err());
    assert!(check_options(FsKind::Ext4, &["-L".to_owned(), "a\nb".to_owned()]).is_err());
}

#[test]
fn a_value_is_never_an_option() {
    let words = ["-qL", "-Eoffset=512", "-m1"].map(str::to_owned);
    let argv: Vec<_> = parse(FsKind::Ext4, &words).unwrap().into_iter().flat_map(Given::argv).collect();
    assert_eq!(argv, ["-q", "-L", "-Eoffset=512", "-m", "1"]);
    let words = ["--label", "--force", "--mixed"].map(str::to_owned);
    let argv: Vec<_> = parse(FsKind::Btrfs, &words).unwrap().into_iter().flat_map(Given::argv).collect();
    assert_eq!(argv, ["--label=--force", "--mixed"]);
}

proptest! {
    #[test]
    fn a_path_never_gets_through(
        kind in prop_oneof![Just(FsKind::Ext4), Just(FsKind::Xfs), Just(FsKind::Btrfs)],
        words in proptest::collection::vec("[-a-zA-Z0-9=,]{0,6}", 0..4),
        at in 0_usize..4,
    ) {
        let mut words = words;
        words.insert(at.min(words.len()), "/dev/sda".to_owned());
        prop_assert!(check_options(kind, &words).is_err());
    }

    #[test]
    fn the_first_word_is_always_an_option(words in proptest::collection::vec("\\PC{0,8}", 1..4)) {
        for kind in [FsKind::Ext4, FsKind::Xfs, FsKind::Btrfs] {
            if check_options(kind, &words).is_ok() {
                prop_assert!(words[0].starts_with('-'));
            }
        }
    }
}
