//! The page at `/`: files of this crate, which hold nothing that needs a token.

use std::sync::Arc;

use axum::Router;
use axum::http::HeaderName;
use axum::http::header::CONTENT_TYPE;
use axum::routing::get;

use crate::state::Shared;

const PAGE: &str = include_str!("../dashboard/index.html");
const SCRIPT: &str = include_str!("../dashboard/app.js");
const STYLE: &str = include_str!("../dashboard/style.css");
const ICON: &str = include_str!("../dashboard/icon.svg");

/// A file with its type.
type File = ([(HeaderName, &'static str); 1], &'static str);

/// Where they are.
pub fn routes() -> Router<Arc<Shared>> {
    Router::new()
        .route("/", get(|| file("text/html; charset=utf-8", PAGE)))
        .route("/app.js", get(|| file("text/javascript; charset=utf-8", SCRIPT)))
        .route("/style.css", get(|| file("text/css; charset=utf-8", STYLE)))
        .route("/icon.svg", get(|| file("image/svg+xml", ICON)))
}

fn file(kind: &'static str, text: &'static str) -> std::future::Ready<File> {
    std::future::ready(([(CONTENT_TYPE, kind)], text))
}
