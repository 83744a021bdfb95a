//! What a reload changes, and what it leaves to the next start.

use zeroize::Zeroizing;

use super::*;

fn two() -> (Config, Config) {
    let secret = |text: &str| Hidden(vec![Secret::new(Zeroizing::new(text.to_owned()))]);
    let old = Config { auth_secrets: secret("one"), ..Config::default() };
    let new = Config {
        auth_secrets: secret("two"),
        realm: "other".to_owned(),
        total_quota: std::num::NonZeroU32::new(7),
        ..Config::default()
    };
    (old, new)
}

#[test]
fn differences_are_named_also_where_nothing_may_be_shown() {
    let (old, new) = two();
    assert_eq!(old.differences(&new), ["realm", "auth-secret", "total-quota"]);
    assert!(old.differences(&old).is_empty());
}

#[test]
fn a_reload_takes_what_the_table_marks_and_nothing_else() {
    let (old, new) = two();
    let merged = old.reloaded(&new);
    assert_eq!(merged.realm, old.realm, "it needs a restart");
    assert_eq!(old.differences(&merged), ["auth-secret", "total-quota"]);
    assert_eq!(merged.differences(&new), ["realm"]);
    for (key, is_reloadable) in [("realm", false), ("auth-secret", true), ("listen", false)] {
        let spec = OPTIONS.iter().find(|spec| spec.key == key).expect("an option");
        assert_eq!(spec.is_reloadable(), is_reloadable, "{key}");
    }
}
