//! Places at which a test ends the process, as a machine does that loses power. Release builds have none.
//!
//! `LOTA_TEST_CRASHES` names a folder. Each place that the process comes to is noted in its file `reached`, a line each; and
//! the process aborts at the place that the file `at` names, once: the file is gone with it. Behind `freeze ` it
//! stands still there, as a machine does that is suspended, until the test lets it go on (SIGCONT). So a test needs no list of the
//! places: it lets everything happen once, reads which there were, and does it again for each of them.

use std::path::PathBuf;

/// A place between two things that outlive the process. `place` names what was done last, or what comes next.
pub fn crash_point(place: &str) {
    #[cfg(debug_assertions)]
    armed::reach(place);
    #[cfg(not(debug_assertions))]
    let _ = place;
}

/// Where the test's files are. Without it nothing is noted, and nothing ends.
pub fn arm_crash_points(folder: PathBuf) {
    #[cfg(debug_assertions)]
    armed::arm(folder);
    #[cfg(not(debug_assertions))]
    let _ = folder;
}

#[cfg(debug_assertions)]
mod armed {
    use std::{
        fs::{self, OpenOptions},
        io::Write as _,
        path::PathBuf,
        sync::OnceLock,
    };

    static FOLDER: OnceLock<PathBuf> = OnceLock::new();

    pub(super) fn arm(folder: PathBuf) {
        let _ = FOLDER.set(folder);
    }

    pub(super) fn reach(place: &str) {
        let Some(folder) = FOLDER.get() else { return };
        let reached = OpenOptions::new().create(true).append(true).open(folder.join("reached"));
        let noted = reached.and_then(|mut file| file.write_all(format!("{place}\n").as_bytes()));
        if let Err(e) = noted {
            tracing::error!("{place} cannot be noted in {}: {e}", folder.display());
        }
        let at = folder.join("at");
        let wanted = fs::read_to_string(&at).unwrap_or_default();
        let wanted = wanted.trim();
        let freezes = wanted.strip_prefix("freeze ") == Some(place);
        if (!freezes && wanted != place) || fs::remove_file(&at).is_err() {
            return;
        }
        if freezes {
            tracing::error!("the test freezes this process at {place}");
            let _ = nix::sys::signal::raise(nix::sys::signal::Signal::SIGSTOP);
        } else {
            tracing::error!("the test ends this process at {place}");
            std::process::abort();
        }
    }
}
