//! Which version of the program this is.

use std::sync::LazyLock;

/// Version and, when the build knew it, revision.
pub fn version() -> &'static str {
    static VERSION: LazyLock<String> = LazyLock::new(|| {
        let revision = option_env!("RBD_DOCKER_PLUGIN_REVISION").unwrap_or("unknown revision");
        format!("{} ({revision})", env!("CARGO_PKG_VERSION"))
    });
    &VERSION
}
