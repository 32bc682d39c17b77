/* Ceph's own headers, for build.rs: nothing of them is copied. */
#include <rados/librados.h>
#include <rbd/librbd.h>
#include <rbd/features.h>
