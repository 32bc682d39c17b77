//! The longer texts of the help.

pub(super) const DOCTOR_ABOUT: &str = "\
Looks at everything that volumes need: settings, ceph.conf and key, monitors, pools, capabilities, images, the kernel, mount root, \
programs, Docker, and what an earlier life of this host has left. Each line says ok, warn or fail, and on warn and fail what mends it. \
It changes nothing: in each pool it writes and removes one object of its own, rbd_docker_plugin.doctor. Nothing hangs it: what does \
not answer is told as such.

Exit status 0 when no line says fail, 1 when one does.";

pub(super) const CHECK_ABOUT: &str = "\
Looks whether volumes can be had: ceph.conf and the user's key are there, and the cluster lists the images of --pool and --pools. It prints \
one line, `rbd-docker-plugin: HOST: OK ...` or `rbd-docker-plugin: HOST: ERROR ...`, and is done within --ceph-timeout, whatever does \
not answer. `doctor` looks at much more, and says what mends it.

Exit status, as that of the check-ceph-rbd-docker-plugin.sh of old: 0 all is well, 1 there is no ceph.conf, 3 there is no key, 5 the cluster does not \
list the images, 2 wrong usage or settings. CEPH_CONF, CEPH_USER and CEPH_KEY (a keyring) in the environment count where the settings say \
nothing.";

pub(super) const CONFIG_CHECK_ABOUT: &str = "\
Shows each setting, its value and where that comes from: a flag, a variable of the environment, a line of the configuration file, or the \
default. Then what should be said otherwise, and everything that is wrong. It runs nothing and asks nobody. The daemon starts with settings that \
pass.

Exit status 0 when they are right, 2 when not.";

pub(super) const BREAK_ABOUT: &str = "\
Frees an image whose owner is gone. That owner's kernel client is shut out of the cluster first, and its plugin if it does not run: \
nothing that they still have in memory reaches the disk afterwards. An owner that shows a sign of life (its plugin runs, or its kernel \
has the image mapped) is refused without --force.

An image without an owner record may bear an advisory lock of another plugin, such as rbd-docker-plugin 2.0.1 or docker-volume-rbd: \
that is ended too, unless somebody has the image mapped.";

pub(super) const FENCE_ABOUT: &str = "\
Shuts out every kernel client that a host has mapped images with, alive or not, and its plugin's own, for --fence-days, and frees \
the images: other hosts can mount them at once. Containers of that host that use them get I/O errors, and what they have not yet \
written is lost. The host itself is not banned: its plugin connects anew, and what it maps afterwards works.

`fence ls` lists who is shut out. `ceph osd blocklist rm ADDRESS` lets one in again: never while a host may still hold data to write.";

pub(super) const UNMOUNT_ABOUT: &str = "\
For a host that goes down or into maintenance: when the plugin of this name has stopped, every volume that it has mounted here is \
unmounted, unmapped and given back, so that other hosts mount it at once, without a takeover. A volume that is still held is left as it is, \
and those who hold it are named. While the plugin runs it is refused. Nothing mounted is success.

All volumes are worked on at once, and what hangs (its storage is away) is left at --timeout.

Exit status 0 when all is given back, 1 when something is left.";
pub(super) const COMPLETIONS_ABOUT: &str = "\
Prints a script that completes commands, flags and their values, for bash, zsh or fish. Packages install it; for one session of \
bash: source <(rbd-docker-plugin completions bash).";

pub(super) const MAN_ABOUT: &str = "\
Without a folder, prints the page rbd-docker-plugin(8). With one, writes it there, a page for each command such as \
rbd-docker-plugin-lock-break(8), and rbd-docker-plugin.conf(5). Packages install them; `rbd-docker-plugin man | man -l -` \
shows the first.";

/// The configuration file, for its own page.
pub(super) const CONF_ABOUT: &str = "\
One setting a line, key=value. # begins a comment at the start of a line and after a blank; values have no quotes; \
of two lines for one key the last one counts. Upper and lower case, - and _ are the same in a key.

The file is read at the start; --conf-file names another one, or none. A wrong value stops the start and names the key, the value \
and the line. rbd-docker-plugin config check shows what is in force and where it comes from, without starting anything.";

pub(super) const SEEING: &str = "\
It asks the running plugin on its admin socket, <admin>/<name>.sock, which only root may use: --name and --admin say which one. \
Nothing waits for storage that does not answer: then what was known last is shown, and said to be old.

Exit status 0 done, 1 failed (the plugin does not run, a volume is not there), 2 wrong usage.";

pub(super) const LONG_ABOUT: &str = "\
rbd-docker-plugin is a Docker volume driver. It listens on <plugins>/<name>.sock, where Docker finds it as the driver \
<name>, and gives containers volumes that are images in a Ceph cluster (RBD) or, for trying it out, files of this host. \
A volume is created, formatted, checked, mounted and unmounted as containers need it; containers of one host share one \
mount, and no two hosts mount one image at the same time.

Without a command it runs as the daemon, in the foreground.

A flag may be written -x or --x, with its value after a blank or a '='.";

/// Lines of 78 columns at most: clap would break longer ones without regard to the columns.
pub(super) const AFTER_LONG_HELP: &str = "\
SEEING IT
  ls                  All volumes, and where they are mounted
  inspect VOLUME...   What is known of them
  df                  How full the mounted ones are
  top                 What they read and write, and what is running

LOOKING AFTER IT
  doctor              What is wrong, and what mends it
  check               The same in one line, for a monitoring system
  config check        The settings, and where each of them comes from
  lock ls             Who owns which image
  lock break IMAGE    Frees an image whose owner is gone; --force: or alive
  fence HOST          Shuts a host out, and frees all its images
  fence ls            Who is shut out, and until when
  unmount --all       When the plugin has stopped: gives all volumes of this
                      host back, as the host's shutdown does
  completions SHELL   Completions for bash, zsh or fish
  man [DIR]           The manual pages
  Flags may come before or after a command. --format json makes the answer
  one JSON document on stdout; errors are text on stderr.

VOLUME NAMES
  [pool/[namespace/]]image[@size], made of letters, digits, '-', '_', '.'.
  Without a pool it is in --pool. The size, in MiB, only matters when the
  image is created: foo, rbd/foo and foo@1024 are one image.

VOLUME OPTIONS (docker volume create -d rbd -o KEY=VALUE)
  size=SIZE           Size of the image: MiB, or with K, M, G, T
  pool=POOL           Pool of the image; remembered for the bare name
  fstype=FS           ext4, xfs or btrfs
  mkfs-options=WORDS  Further options for mkfs, quoted as in a shell
  mount-options=LIST  Mount options as in fstab: noatime,discard
  uid=N  gid=N        Owner and group of the volume's root directory
  mode=OCTAL          Its mode bits; all three are set once, after mkfs
  read-only=BOOL      Always mount it read-only
  For images in Ceph:
  namespace=NAME      RADOS namespace; remembered for the bare name
  features=LIST       Image features: layering,exclusive-lock
  object-size=SIZE  stripe-unit=SIZE  stripe-count=N
                      Layout of the image; a bare number is bytes
  data-pool=POOL      Pool of the data, if it is another one
  map-options=LIST    For the kernel's mapping, as in rbd(8)
  lock=MODE           cooperative or exclusive

FILES
  /etc/docker/rbd-docker-plugin.conf
      key=value lines, where a key is a flag without its dashes; # begins a
      comment.
  <plugins>/<name>.sock
      The socket, owned by root and --socket-group, mode 0660. One that
      systemd has opened and passes is served as it is, and stays at a stop.
  <plugins>/<name>.lock
      Held while the plugin runs: a second one of this name does not start.
  <admin>/<name>.sock
      The admin socket, mode 0600: GET /healthz, /readyz, /metrics,
      /v1/status, /v1/volumes, /v1/volumes/NAME, /v1/mounts and
      /v1/operations; curl --unix-socket reads them, too.
  <mount>/<name>/<pool>/<image>
      The mountpoints.
  <mount-ids>/<name>.mounts/
      Who uses what is mounted: for the next start, not for the next boot.
  <state>/<name>/
      The names of the volumes, for when the backend is away, and the mark of
      the local backend's folder, by which an unmounted one is told.
  <logdir>/<name>-docker-plugin.log
      The log; stderr when it may not be written.

ENVIRONMENT
  RBD_DOCKER_PLUGIN_<FLAG>
      Every flag has a twin, in capitals and with '_' for '-', such as
      RBD_DOCKER_PLUGIN_LOG_LEVEL=debug.
  LISTEN_FDS, LISTEN_PID
      Set by systemd for rbd-docker-plugin.socket: the socket is passed.
  NOTIFY_SOCKET, WATCHDOG_USEC
      Set by systemd for rbd-docker-plugin.service (Type=notify): it is told
      when the plugin is ready, what it does, and that it still serves.
  A flag wins over the environment, the environment over the file, the file
  over the default. An empty value counts as not given. RUST_LOG is not read.
  The variables of wetopi/docker-volume-rbd (RBD_CONF_POOL, VOLUME_SIZE and so
  on) are understood beside one that begins with RBD_CONF_; ours win.

SIGNALS
  SIGTERM, SIGINT
      Stop: finish what is running (60 s at most), remove the socket, leave
      volumes mounted. A second one stops at once.
  SIGHUP
      Open the log file again (for logrotate).

EXIT STATUS
  0 stopped as told, or done; 1 failed, for doctor: something is wrong;
  2 wrong flag, variable or configuration file. check has its own.

EXAMPLES
  Try it without a Ceph cluster:
    rbd-docker-plugin --backend local --local-dir /var/lib/rbd-images \\
        --create --fs ext4 --size 1G
    docker volume create -d rbd -o size=256M hello
    docker run --rm -v hello:/data alpine sh -c 'date >> /data/log'

  As /etc/docker/rbd-docker-plugin.conf:
    create=true
    remove=rename
    size=50G

SEE ALSO
  rbd-docker-plugin.conf(5), docker-volume-create(1), rbd(8), ceph(8)";
