//! `cargo xtask openapi`: the document that describes the API.

fn main() {
    print!("{}", turnpike_admin::openapi());
}
