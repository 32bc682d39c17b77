//! Binds what `src/ceph` calls of librados and librbd, from the headers that `wrapper.h` names.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::{env, panic};

use bindgen::EnumVariation;
use bindgen::callbacks::{IntKind, ParseCallbacks};

const NEEDED: &str = "the build needs librados, librbd and libclang:
  Debian, Ubuntu:    apt-get install librados-dev librbd-dev libclang-dev
  Fedora, RHEL, ...: dnf install librados-devel librbd-devel clang-devel
Elsewhere: LIBRBD_INCLUDE_DIR=<folder with rados/ and rbd/> LIBRBD_LIB_DIR=<folder with librados.so and librbd.so>";

const INCLUDE_DIR: &str = "LIBRBD_INCLUDE_DIR";
const LIB_DIR: &str = "LIBRBD_LIB_DIR";

/// librbd of Ceph 16.
const OLDEST: [i64; 3] = [1, 16, 0];

/// What is called. All of it is in Ceph 16, so that what was built against newer headers still runs on its libraries.
const FUNCTIONS: &[&str] = &[
    // cluster
    "rados_(version|create2|connect|shutdown|conf_(read_file|set|get)|cluster_(fsid|stat)|getaddrs|get_instance_id)",
    "rados_(mon_command|buffer_free|pool_list|pool_reverse_lookup|blocklist_add|wait_for_latest_osdmap)",
    "rados_ioctx_(create|destroy|get_id|set_namespace)",
    "rados_set_pool_full_try",
    // objects
    "rados_(read|remove|notify2|lock_exclusive|lock_shared|unlock|list_lockers)",
    "rados_(create|release)_(read|write)_op",
    "rados_read_op_(exec|set_flags|operate|omap_get_vals2|omap_get_vals_by_keys2)",
    "rados_write_op_(create|operate2|omap_cmp2|omap_set2|omap_rm_keys2)",
    "rados_omap_get_(next2|end)",
    "rados_aio_(create_completion2|read_op_operate|wait_for_complete|get_return_value|release)",
    // images
    "rbd_(version|list2|image_spec_list_cleanup|namespace_list|create4|remove_with_progress|rename)",
    "rbd_image_options_(create|destroy|set_string|set_uint64)",
    "rbd_(open|open_read_only|close|get_size|get_features|get_id|flush|write_zeroes|diff_iterate2)",
    "rbd_(snap_list|snap_list_end|watchers_list|watchers_list_cleanup)",
    "rbd_(snap_get_namespace_type|snap_is_protected|list_children3|linked_image_spec_list_cleanup)",
    "rbd_(get_group|group_info_cleanup|mirror_image_get_info|mirror_image_get_info_cleanup)",
    "rbd_(read2|pool_metadata_get|trash_list|trash_list_cleanup)",
    "rbd_(lock_exclusive|unlock|break_lock)",
];

const CONSTANTS: &[&str] = &[
    "LIBRADOS_(CMPXATTR_OP_EQ|OP_FLAG_FAILOK|CREATE_IDEMPOTENT|LOCK_FLAG_MAY_RENEW)",
    "RBD_IMAGE_OPTION_(FEATURES|ORDER|STRIPE_UNIT|STRIPE_COUNT|DATA_POOL)",
    "RBD_FEATURE_.*",
];

fn main() -> ExitCode {
    match bind() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("error: {why}\n\n{NEEDED}");
            ExitCode::FAILURE
        }
    }
}

fn bind() -> Result<(), String> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=wrapper.h");
    println!("cargo::rerun-if-env-changed={INCLUDE_DIR}");
    println!("cargo::rerun-if-env-changed={LIB_DIR}");
    let macros = Macros::default();
    let mut builder = bindgen::Builder::default()
        .header("wrapper.h")
        .default_enum_style(EnumVariation::NewType { is_bitfield: false, is_global: false })
        .constified_enum("_bindgen_ty_.*")
        .derive_default(true)
        .generate_cstr(true)
        .generate_comments(false)
        .layout_tests(true)
        .parse_callbacks(Box::new(bindgen::CargoCallbacks::new()))
        .parse_callbacks(Box::new(macros.clone()));
    if let Some(dir) = env::var_os(INCLUDE_DIR) {
        builder = builder.clang_arg(format!("-I{}", PathBuf::from(dir).display()));
    }
    builder = FUNCTIONS.iter().fold(builder, |builder, names| builder.allowlist_function(names));
    builder = CONSTANTS.iter().fold(builder, |builder, names| builder.allowlist_var(names));
    // Without libclang bindgen panics instead of returning an error.
    let bindings = panic::catch_unwind(panic::AssertUnwindSafe(|| builder.generate()))
        .map_err(|_| "libclang was not found".to_owned())?
        .map_err(|e| format!("wrapper.h cannot be bound: {e}"))?;
    let version = macros.version()?;
    if version < OLDEST {
        return Err(format!(
            "these are the headers of librbd {}: Ceph 16 (librbd 1.16) is the oldest supported",
            dotted(version)
        ));
    }
    let out = env::var_os("OUT_DIR").ok_or("OUT_DIR is not set: run this through cargo")?;
    let out = PathBuf::from(out).join("bindings.rs");
    bindings.write_to_file(&out).map_err(|e| format!("{} cannot be written: {e}", out.display()))?;
    if let Some(dir) = env::var_os(LIB_DIR) {
        println!("cargo::rustc-link-search=native={}", PathBuf::from(dir).display());
    }
    println!("cargo::rustc-link-lib=dylib=rbd");
    println!("cargo::rustc-link-lib=dylib=rados");
    println!("cargo::rustc-env=LIBRBD_SYS_HEADERS={}", dotted(version));
    println!("cargo::metadata=version={}", dotted(version));
    Ok(())
}

fn dotted(version: [i64; 3]) -> String {
    version.map(|part| part.to_string()).join(".")
}

/// The version macros of librbd, as the parser comes across them.
#[derive(Debug, Clone, Default)]
struct Macros(Rc<RefCell<BTreeMap<String, i64>>>);

impl Macros {
    fn version(&self) -> Result<[i64; 3], String> {
        let found = self.0.borrow();
        let part = |name: &str| {
            found.get(name).copied().ok_or_else(|| format!("rbd/librbd.h does not define {name}"))
        };
        Ok([part("LIBRBD_VER_MAJOR")?, part("LIBRBD_VER_MINOR")?, part("LIBRBD_VER_EXTRA")?])
    }
}

impl ParseCallbacks for Macros {
    fn int_macro(&self, name: &str, value: i64) -> Option<IntKind> {
        if name.starts_with("LIBRBD_VER_") {
            self.0.borrow_mut().insert(name.to_owned(), value);
        }
        // Feature bits are 64 bits wide in every call.
        name.starts_with("RBD_FEATURE_").then_some(IntKind::U64)
    }
}
