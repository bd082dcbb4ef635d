//! SoftHSM for development and tests: its configuration, and where its module usually is.

use std::path::{Path, PathBuf};

/// The configuration of `softhsm-config/softhsm2.conf.template`; `@TOKEN_DIRECTORY@` stands for the token directory.
pub const CONFIGURATION_TEMPLATE: &str = include_str!("../../softhsm-config/softhsm2.conf.template");

/// The development tokens and the roles each holds: `softhsm-config/tokens.toml`.
pub const TOKENS: &str = include_str!("../../softhsm-config/tokens.toml");

/// Where distributions put the module.
const MODULES: [&str; 4] = [
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
];

/// The text of a softhsm2.conf for tokens in `directory`, which must exist when SoftHSM starts.
pub fn configuration(directory: &Path) -> String {
    CONFIGURATION_TEMPLATE.replace("@TOKEN_DIRECTORY@", &directory.display().to_string())
}

/// The installed SoftHSM module, if there is one.
pub fn module() -> Option<PathBuf> {
    MODULES.iter().map(PathBuf::from).find(|path| path.exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rendered_configuration_names_the_token_directory_and_nothing_is_left_open() {
        let text = configuration(Path::new("/run/tokens"));
        assert!(text.contains("directories.tokendir = /run/tokens\n"));
        assert!(!text.contains('@'));
    }

    #[test]
    fn the_token_specification_gives_every_role_exactly_one_token() {
        use crate::key::KeyRole;
        for role in KeyRole::ALL {
            let quoted = format!("\"{}\"", role.as_str());
            let times = TOKENS.matches(&quoted).count();
            // Canaries stand on every token they fit.
            assert!(times == 1 || (times > 1 && role.is_canary()), "{quoted}: {times}");
        }
    }
}
