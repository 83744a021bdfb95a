//! The page at `/`: files of this crate, which hold nothing that needs a token.

use std::sync::Arc;

use axum::Router;
use axum::http::HeaderName;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;

use crate::state::AppState;

/// A path, its media type, and what is there.
type Asset = (&'static str, &'static str, &'static str);

macro_rules! scripts {
    ($($name:literal),* $(,)?) => {
        [$((concat!("/", $name), "text/javascript; charset=utf-8", include_str!(concat!("../dashboard/", $name)))),*]
    };
}

const ASSETS: [Asset; 3] = [
    ("/", "text/html; charset=utf-8", include_str!("../dashboard/index.html")),
    ("/style.css", "text/css; charset=utf-8", include_str!("../dashboard/style.css")),
    ("/icon.svg", "image/svg+xml", include_str!("../dashboard/icon.svg")),
];

/// Modules as browsers load them: no build step.
const SCRIPTS: [Asset; 19] = scripts![
    "actions.js",
    "api.js",
    "chart.js",
    "configuration.js",
    "credentials.js",
    "detail.js",
    "dialog.js",
    "dom.js",
    "events.js",
    "fallback.js",
    "feed.js",
    "format.js",
    "main.js",
    "panels.js",
    "refusals.js",
    "session.js",
    "table.js",
    "users.js",
    "views.js",
];

/// A file with its type.
type File = ([(HeaderName, &'static str); 1], &'static str);

/// The routes of the page and of what it loads.
pub fn routes() -> Router<Arc<AppState>> {
    let assets = ASSETS.into_iter().chain(SCRIPTS);
    assets.fold(Router::new(), |router, (path, kind, text)| router.route(path, get(move || file(kind, text))))
}

fn file(kind: &'static str, text: &'static str) -> std::future::Ready<File> {
    std::future::ready(([(CONTENT_TYPE, kind)], text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_module_that_a_script_imports_is_served() {
        for (path, _, text) in SCRIPTS {
            for line in text.lines().filter(|line| line.starts_with("import ")) {
                let (_, module) = line.split_once(" from \"./").expect("an import of a file beside it");
                let module = module.trim_end_matches("\";");
                assert!(SCRIPTS.iter().any(|(path, ..)| path[1..] == *module), "{path}: {module}");
            }
        }
    }
}
