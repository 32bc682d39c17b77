/* The kernel's own headers, for build.rs: what linux/uapi.rs binds comes from here and is copied nowhere. */
#include <stddef.h>
#include <linux/fs.h>
#include <linux/loop.h>
#include <linux/btrfs.h>
#include <linux/btrfs_tree.h>
#include <linux/magic.h>
