//! RFC 8489 s. 9.2 from the client's side, and what attackers make of it.

use std::sync::Arc;

use proptest::prelude::*;

use super::claims::PASSWORD_ALGORITHMS;
use super::*;
use crate::addr::{ClientAddr, FiveTuple, Transport};
use crate::wire::integrity::{Mechanism, verify};
use crate::wire::{Message, MessageBuilder, TransactionId, attr, method};
use crate::{ErrorCode, Now};

const REALM: &str = "example.org";
const T0: u64 = 1_800_000_000;
const ID: TransactionId = TransactionId(*b"transaction!");
const SHA256_CHOICE: &[u8] = &[0, 2, 0, 0];
const MD5_CHOICE: &[u8] = &[0, 1, 0, 0];

type Outcome = Result<Arc<Identity>, Rejection>;

fn at(unix_secs: u64) -> Now {
    Now { mono_ns: 0, unix_secs }
}

fn five_tuple(client: &str) -> FiveTuple {
    FiveTuple {
        client: ClientAddr(client.parse().unwrap()),
        server: "192.0.2.2:3478".parse().unwrap(),
        transport: Transport::Udp,
    }
}

fn home() -> FiveTuple {
    five_tuple("192.0.2.1:1000")
}

/// Credentials with these users (password `pw-NAME`) and REST secrets.
fn credentials(users: &[&str], secrets: &[&str]) -> Credentials {
    let mut credentials = Credentials::new(REALM);
    for user in users {
        credentials.add_user(user, &format!("pw-{user}")).unwrap();
    }
    for secret in secrets {
        credentials.add_secret((*secret).to_owned());
    }
    credentials
}

fn server(users: &[&str], secrets: &[&str]) -> Authenticator {
    Authenticator::new(credentials(users, secrets), false, [7; 32])
}

fn challenge(server: &Authenticator, now: u64, client: &FiveTuple) -> Vec<u8> {
    let request = MessageBuilder::request(method::ALLOCATE, ID).finish();
    let request = Message::parse(&request).unwrap();
    let reply = MessageBuilder::error(&request, ErrorCode::Unauthenticated);
    server.challenge(at(now), client, 42, usize::MAX, reply).finish()
}

fn nonce(server: &Authenticator, now: u64, client: &FiveTuple) -> Vec<u8> {
    let reply = challenge(server, now, client);
    Message::parse(&reply).unwrap().attribute(attr::NONCE).unwrap().to_vec()
}

fn request(attributes: &[(u16, &[u8])]) -> MessageBuilder {
    attributes.iter().fold(MessageBuilder::request(method::ALLOCATE, ID), |builder, (kind, value)| {
        builder.attribute(*kind, value)
    })
}

fn ask(server: &Authenticator, now: u64, bytes: &[u8], held: Option<&Arc<Identity>>) -> Outcome {
    server.authenticate(at(now), &home(), &Message::parse(bytes).unwrap(), held)
}

/// What an MD5 client of RFC 5389 sends.
fn old_style(user: &str, realm: &str, password: &str, nonce: &[u8]) -> Vec<u8> {
    request(&[(attr::USERNAME, user.as_bytes()), (attr::REALM, realm.as_bytes()), (attr::NONCE, nonce)])
        .finish_signed(&Key::md5(user, realm, password).unwrap())
}

/// What a client of RFC 8489 sends that chose an algorithm.
fn new_style(user: &str, password: &str, nonce: &[u8], choice: &[u8]) -> Vec<u8> {
    let key = match choice {
        SHA256_CHOICE => Key::sha256(user, REALM, password).unwrap(),
        _ => Key::md5(user, REALM, password).unwrap().with_mechanism(Mechanism::Sha256),
    };
    request(&[
        (attr::USERNAME, user.as_bytes()),
        (attr::REALM, REALM.as_bytes()),
        (attr::NONCE, nonce),
        (attr::PASSWORD_ALGORITHMS, PASSWORD_ALGORITHMS),
        (attr::PASSWORD_ALGORITHM, choice),
    ])
    .finish_signed(&key)
}

fn login(
    server: &Authenticator,
    now: u64,
    user: &str,
    password: &str,
    held: Option<&Arc<Identity>>,
) -> Outcome {
    let nonce = nonce(server, now, &home());
    ask(server, now, &old_style(user, REALM, password, &nonce), held)
}

fn rest_login(server: &Authenticator, now: u64, user: &str, secret: &str) -> Outcome {
    login(server, now, user, &rest_password(secret, user), None)
}

fn rejected(outcome: Outcome) -> (u16, bool) {
    let rejection = outcome.unwrap_err();
    (rejection.code.code(), rejection.challenge)
}

#[test]
fn s15a_no_integrity_is_challenged() {
    let server = server(&["alice"], &[]);
    let full: &[(u16, &[u8])] =
        &[(attr::USERNAME, b"alice"), (attr::REALM, b"example.org"), (attr::NONCE, b"x")];
    for attributes in [&[][..], full] {
        assert_eq!(rejected(ask(&server, T0, &request(attributes).finish(), None)), (401, true));
    }
}

#[test]
fn s15b_missing_parts_are_a_bad_request_without_challenge() {
    let server = server(&["alice"], &[]);
    let nonce = nonce(&server, T0, &home());
    let parts: [(u16, &[u8]); 3] =
        [(attr::USERNAME, b"alice"), (attr::REALM, REALM.as_bytes()), (attr::NONCE, &nonce)];
    let key = Key::md5("alice", REALM, "pw-alice").unwrap();
    assert!(ask(&server, T0, &request(&parts).finish_signed(&key), None).is_ok());
    for missing in 0..3 {
        let mut fewer = parts.to_vec();
        fewer.remove(missing);
        let bytes = request(&fewer).finish_signed(&key);
        assert_eq!(rejected(ask(&server, T0, &bytes, None)), (400, false), "without part {missing}");
    }
}

#[test]
fn s15_checks_come_in_the_order_of_the_rfc() {
    let server = server(&["alice"], &[]);
    let good = nonce(&server, T0, &home());
    let ask =
        |user, password, nonce| rejected(ask(&server, T0, &old_style(user, REALM, password, nonce), None));
    // Whatever else is wrong, wrong credentials are 401, and only right ones learn that the nonce is stale.
    assert_eq!(ask("bob", "pw-bob", &good), (401, true));
    assert_eq!(ask("alice", "wrong", &good), (401, true));
    assert_eq!(ask("bob", "pw-bob", b"stale"), (401, true));
    assert_eq!(ask("alice", "wrong", b"stale"), (401, true));
    assert_eq!(ask("alice", "pw-alice", b"stale"), (438, true));
}

#[test]
fn s16_the_challenge_names_nobody_and_is_usable_at_once() {
    let server = server(&["alice"], &[]);
    let reply = challenge(&server, T0, &home());
    let reply = Message::parse(&reply).unwrap();
    let kinds: Vec<u16> = reply.attributes().map(|(kind, _)| kind).collect();
    assert_eq!(kinds, [attr::ERROR_CODE, attr::REALM, attr::NONCE, attr::PASSWORD_ALGORITHMS]);
    assert!(!reply.has_integrity());
    assert_eq!(reply.attribute(attr::REALM), Some(REALM.as_bytes()));
    let identity = login(&server, T0, "alice", "pw-alice", None).unwrap();
    assert_eq!((&*identity.user, &*identity.quota_user, identity.expires_unix()), ("alice", "alice", None));
}

#[test]
fn s17_a_foreign_realm_is_a_credential_failure() {
    let server = server(&["alice"], &[]);
    let nonce = nonce(&server, T0, &home());
    let foreign = old_style("alice", "example.com", "pw-alice", &nonce);
    assert_eq!(rejected(ask(&server, T0, &foreign, None)), (401, true));
    // Even with the right key: the realm is compared, not only hashed.
    let claimed =
        request(&[(attr::USERNAME, b"alice"), (attr::REALM, b"example.com"), (attr::NONCE, &nonce)])
            .finish_signed(&Key::md5("alice", REALM, "pw-alice").unwrap());
    assert_eq!(rejected(ask(&server, T0, &claimed, None)), (401, true));
}

// RFC 8489 s. 9.2 and 18.1 with the errata on the bits' order.
#[test]
fn s18_features_are_offered_only_if_every_source_has_them() {
    let mut md5_user = credentials(&["alice"], &[]);
    md5_user.add_user_md5("bob", [1; 16]).unwrap();
    let mut md5_and_rest = credentials(&[], &["secret"]);
    md5_and_rest.add_user_md5("bob", [1; 16]).unwrap();
    for (credentials, prefix, algorithms) in [
        (credentials(&["alice"], &[]), b"obMatJos2AAAD", true),
        (credentials(&["alice"], &["secret"]), b"obMatJos2AAAB", true),
        (md5_user, b"obMatJos2AAAC", false),
        (md5_and_rest, b"obMatJos2AAAA", false),
    ] {
        let server = Authenticator::new(credentials, false, [7; 32]);
        let reply = challenge(&server, T0, &home());
        let reply = Message::parse(&reply).unwrap();
        assert_eq!(reply.attribute(attr::NONCE).unwrap()[..13], prefix[..]);
        let offered = reply.attribute(attr::PASSWORD_ALGORITHMS);
        assert_eq!(offered, algorithms.then_some(&[0, 2, 0, 0, 0, 1, 0, 0][..]));
    }
}

// RFC 8656 s. 6: a password isn't needed once its key is known.
#[test]
fn t4_s18_a_user_known_by_md5_key_only_can_log_in() {
    let mut credentials = credentials(&[], &[]);
    let key = Key::md5("bob", REALM, "pw").unwrap();
    credentials.add_user_md5("bob", key.bytes().try_into().unwrap()).unwrap();
    let server = Authenticator::new(credentials, false, [7; 32]);
    assert!(login(&server, T0, "bob", "pw", None).is_ok());
    let nonce = nonce(&server, T0, &home());
    let sha256 = new_style("bob", "pw", &nonce, SHA256_CHOICE);
    assert_eq!(rejected(ask(&server, T0, &sha256, None)), (401, true));
}

// RFC 8656 s. 6: both keys are kept, so that every client finds its algorithm.
#[test]
fn a_user_of_stored_keys_can_log_in_by_either_of_them() {
    let keys = StoredKeys::derive("bob", REALM, "pw").unwrap();
    let mut credentials = credentials(&[], &[]);
    credentials.add_user_keys("bob", &keys).unwrap();
    assert!(credentials.has_user("bob") && !credentials.has_user("alice"));
    let server = Authenticator::new(credentials, false, [7; 32]);
    assert!(login(&server, T0, "bob", "pw", None).is_ok());
    assert_eq!(rejected(login(&server, T0, "bob", "other", None)), (401, true));
    let nonce = nonce(&server, T0, &home());
    assert!(ask(&server, T0, &new_style("bob", "pw", &nonce, SHA256_CHOICE), None).is_ok());
    assert!(StoredKeys::derive("bob", REALM, "").is_err());
}

// RFC 8489 s. 9.2.4, last paragraph.
#[test]
fn s19_s23_the_answer_uses_what_the_client_understands() {
    let server = server(&["alice"], &[]);
    let nonce = nonce(&server, T0, &home());
    let both_integrities = {
        let first = old_style("alice", REALM, "pw-alice", &nonce);
        let key = Key::md5("alice", REALM, "pw-alice").unwrap().with_mechanism(Mechanism::Sha256);
        Message::parse(&first)
            .unwrap()
            .attributes()
            .fold(MessageBuilder::request(method::ALLOCATE, ID), |b, (kind, value)| b.attribute(kind, value))
            .finish_signed(&key)
    };
    for (bytes, algorithm, mechanism) in [
        (old_style("alice", REALM, "pw-alice", &nonce), Algorithm::Md5, Mechanism::Sha1),
        (both_integrities, Algorithm::Md5, Mechanism::Sha1),
        (new_style("alice", "pw-alice", &nonce, SHA256_CHOICE), Algorithm::Sha256, Mechanism::Sha256),
        (new_style("alice", "pw-alice", &nonce, MD5_CHOICE), Algorithm::Md5, Mechanism::Sha256),
    ] {
        let request = Message::parse(&bytes).unwrap();
        let identity = ask(&server, T0, &bytes, None).unwrap();
        assert_eq!(identity.key().algorithm(), algorithm);
        let answer = MessageBuilder::success(&request).lifetime(600).finish_signed(identity.key());
        let answer = Message::parse(&answer).unwrap();
        assert!(verify(&answer, mechanism, identity.key()));
        // The same choice again, or another one, against the key that the allocation holds.
        let again = ask(&server, T0, &bytes, Some(&identity)).unwrap();
        assert!(Arc::ptr_eq(&again, &identity));
        for (other, algorithm, mechanism) in [
            (old_style("alice", REALM, "pw-alice", &nonce), Algorithm::Md5, Mechanism::Sha1),
            (new_style("alice", "pw-alice", &nonce, SHA256_CHOICE), Algorithm::Sha256, Mechanism::Sha256),
            (new_style("alice", "pw-alice", &nonce, MD5_CHOICE), Algorithm::Md5, Mechanism::Sha256),
        ] {
            let other = ask(&server, T0, &other, Some(&identity)).unwrap();
            assert_eq!((other.key().algorithm(), other.key().mechanism()), (algorithm, mechanism));
        }
    }
}

// RFC 8489 s. 9.2.4, third check, and s. 16.1
#[test]
fn s20_bidding_down_is_refused() {
    let server = server(&["alice"], &[]);
    let nonce = nonce(&server, T0, &home());
    let sha256 = Key::sha256("alice", REALM, "pw-alice").unwrap();
    let md5 = Key::md5("alice", REALM, "pw-alice").unwrap();
    let lists: [Option<&[u8]>; 4] =
        [None, Some(&[0, 1, 0, 0]), Some(&[0, 1, 0, 0, 0, 2, 0, 0]), Some(PASSWORD_ALGORITHMS)];
    let choices: [Option<&[u8]>; 5] =
        [None, Some(MD5_CHOICE), Some(SHA256_CHOICE), Some(&[0, 3, 0, 0]), Some(&[0, 2])];
    for list in lists {
        for choice in choices {
            let mut parts: Vec<(u16, &[u8])> =
                vec![(attr::USERNAME, b"alice"), (attr::REALM, REALM.as_bytes()), (attr::NONCE, &nonce)];
            parts.extend(list.map(|list| (attr::PASSWORD_ALGORITHMS, list)));
            parts.extend(choice.map(|choice| (attr::PASSWORD_ALGORITHM, choice)));
            let key = if choice == Some(SHA256_CHOICE) { &sha256 } else { &md5 };
            let outcome = ask(&server, T0, &request(&parts).finish_signed(key), None);
            let agreed = list == Some(PASSWORD_ALGORITHMS)
                && (choice == Some(MD5_CHOICE) || choice == Some(SHA256_CHOICE));
            if agreed || (list.is_none() && choice.is_none()) {
                assert!(outcome.is_ok(), "{list:?} {choice:?}");
            } else {
                assert_eq!(rejected(outcome), (400, false), "{list:?} {choice:?}");
            }
        }
    }
}

#[test]
fn s21_feature_bits_are_part_of_what_makes_a_nonce_valid() {
    let server = server(&["alice"], &[]);
    let mut nonce = nonce(&server, T0, &home());
    assert_eq!(&nonce[..13], b"obMatJos2AAAD");
    for bits in [b'A', b'B', b'C', b'E'] {
        nonce[12] = bits;
        let outcome = ask(&server, T0, &old_style("alice", REALM, "pw-alice", &nonce), None);
        assert_eq!(rejected(outcome), (438, true), "{}", bits as char);
    }
}

fn hashed(user: &str, password: &str, nonce: &[u8]) -> Vec<u8> {
    use sha2::Digest;
    let hash = sha2::Sha256::digest(format!("{user}:{REALM}"));
    request(&[(attr::USERHASH, &hash), (attr::REALM, REALM.as_bytes()), (attr::NONCE, nonce)])
        .finish_signed(&Key::md5(user, REALM, password).unwrap())
}

// RFC 8489 s. 9.2.2 and 14.4
#[test]
fn s22_users_are_found_by_hash_while_all_are_known() {
    let open = server(&["alice", "bob"], &[]);
    let nonce_ = nonce(&open, T0, &home());
    let identity = ask(&open, T0, &hashed("bob", "pw-bob", &nonce_), None).unwrap();
    assert_eq!(&*identity.user, "bob");
    assert!(ask(&open, T0, &hashed("bob", "pw-bob", &nonce_), Some(&identity)).is_ok());
    assert_eq!(rejected(ask(&open, T0, &hashed("bob", "pw-alice", &nonce_), None)), (401, true));
    assert_eq!(rejected(ask(&open, T0, &hashed("carol", "pw-carol", &nonce_), None)), (401, true));
    let other = ask(&open, T0, &hashed("alice", "pw-alice", &nonce_), Some(&identity)).unwrap();
    assert_eq!(&*other.user, "alice");

    let with_rest = server(&["bob"], &["secret"]);
    let nonce_ = nonce(&with_rest, T0, &home());
    assert_eq!(rejected(ask(&with_rest, T0, &hashed("bob", "pw-bob", &nonce_), None)), (401, true));
}

#[test]
fn s22_a_hash_of_another_size_is_nobody() {
    let server = server(&["alice"], &[]);
    let nonce = nonce(&server, T0, &home());
    for len in [0, 31, 33] {
        let hash = vec![0; len];
        let bytes =
            request(&[(attr::USERHASH, &hash), (attr::REALM, REALM.as_bytes()), (attr::NONCE, &nonce)])
                .finish_signed(&Key::from_md5_bytes([0; 16]));
        assert_eq!(rejected(ask(&server, T0, &bytes, None)), (401, true));
    }
}

// RFC 8265 s. 4.2: composed and decomposed forms are one name, and so are all kinds of blanks.
#[test]
fn s24_names_are_compared_as_opaque_strings() {
    let server = server(&["Jos\u{e9} \u{3a9}"], &[]);
    let composed = "Jos\u{e9} \u{3a9}";
    for name in [composed, "Jose\u{301} \u{3a9}", "Jos\u{e9}\u{a0}\u{3a9}"] {
        let identity = login(&server, T0, name, &format!("pw-{composed}"), None).unwrap();
        assert_eq!(&*identity.user, composed);
    }
    assert!(login(&server, T0, "jos\u{e9} \u{3a9}", &format!("pw-{composed}"), None).is_err());
}

// RFC 8656 s. 5
#[test]
fn s25_a_nonce_lives_for_an_hour() {
    let server = server(&["alice"], &[]);
    // Issued at the end of one key's hour, so most of its life is in the next.
    for issued in [T0, T0 / 3600 * 3600 + 3599, u64::from(u32::MAX) - 10] {
        let nonce = nonce(&server, issued, &home());
        let ask = |now| ask(&server, now, &old_style("alice", REALM, "pw-alice", &nonce), None);
        assert!(ask(issued).is_ok());
        assert!(ask(issued + 3600).is_ok());
        assert_eq!(rejected(ask(issued + 3601)), (438, true));
        assert_eq!(rejected(ask(issued + 86_400)), (438, true));
        // Another worker's clock may be a little behind.
        assert!(ask(issued - 1).is_ok());
        assert_eq!(rejected(ask(issued - 3600)), (438, true));
    }
}

#[test]
fn q4_a_nonce_is_small() {
    let server = server(&["alice"], &[]);
    assert_eq!(nonce(&server, T0, &home()).len(), 33);
}

// RFC 8489 s. 9.2.5: without an announcement the server is one of RFC 5389, and works as such.
#[test]
fn q4_where_there_is_little_room_the_challenge_is_that_of_rfc_5389() {
    let server = server(&["alice"], &[]);
    let reply = |room| {
        let request = MessageBuilder::request(method::ALLOCATE, ID).finish();
        let reply = MessageBuilder::error(&Message::parse(&request).unwrap(), ErrorCode::Unauthenticated);
        server.challenge(at(T0), &home(), 42, room, reply).finish()
    };
    let full = reply(usize::MAX);
    assert_eq!(reply(full.len()), full);
    let compact = reply(full.len() - 1);
    // The realm has 11 bytes; one of 14 takes four more.
    assert_eq!(compact.len(), 76 - 4);
    let compact = Message::parse(&compact).unwrap();
    assert!(!compact.has(attr::PASSWORD_ALGORITHMS));
    let nonce = compact.attribute(attr::NONCE).unwrap();
    let identity = ask(&server, T0, &old_style("alice", REALM, "pw-alice", nonce), None).unwrap();
    assert_eq!(identity.key().algorithm(), Algorithm::Md5);
    assert_eq!(rejected(ask(&server, T0, &old_style("alice", REALM, "wrong", nonce), None)), (401, true));
    assert_eq!(
        rejected(ask(&server, T0 + 3601, &old_style("alice", REALM, "pw-alice", nonce), None)),
        (438, true)
    );
}

// RFC 8489 s. 16.1: what was announced can't be taken away on the way.
#[test]
fn s21_a_nonce_without_its_announcement_is_not_valid() {
    let server = server(&["alice"], &[]);
    let announced = nonce(&server, T0, &home());
    let outcome = ask(&server, T0, &old_style("alice", REALM, "pw-alice", &announced[13..]), None);
    assert_eq!(rejected(outcome), (438, true));
}

#[test]
fn q5_a_nonce_is_of_no_use_to_others() {
    let server = server(&["alice"], &[]);
    let mut over_tcp = home();
    over_tcp.transport = Transport::Tcp;
    for foreign in [
        five_tuple("192.0.2.1:1001"),
        five_tuple("192.0.2.3:1000"),
        five_tuple("[2001:db8::1]:1000"),
        over_tcp,
    ] {
        let nonce = nonce(&server, T0, &foreign);
        let bytes = old_style("alice", REALM, "pw-alice", &nonce);
        assert_eq!(rejected(ask(&server, T0, &bytes, None)), (438, true));
        assert!(server.authenticate(at(T0), &foreign, &Message::parse(&bytes).unwrap(), None).is_ok());
    }
    let elsewhere = Authenticator::new(credentials(&["alice"], &[]), false, [8; 32]);
    let nonce = nonce(&elsewhere, T0, &home());
    let bytes = old_style("alice", REALM, "pw-alice", &nonce);
    assert_eq!(rejected(ask(&server, T0, &bytes, None)), (438, true));
}

#[test]
fn q5_nonces_of_one_second_differ_by_their_random_part() {
    let server = server(&["alice"], &[]);
    let request = request(&[]).finish();
    let reply = |random| {
        let reply = MessageBuilder::error(&Message::parse(&request).unwrap(), ErrorCode::Unauthenticated);
        server.challenge(at(T0), &home(), random, usize::MAX, reply).finish()
    };
    assert_ne!(reply(1), reply(2));
}

#[test]
fn a_valid_nonce_is_recognised_without_credentials() {
    let server = server(&["alice"], &[]);
    let nonce = nonce(&server, T0, &home());
    let with = |value: &[u8]| {
        let bytes = request(&[(attr::NONCE, value)]).finish();
        server.has_valid_nonce(at(T0), &home(), &Message::parse(&bytes).unwrap())
    };
    assert!(with(&nonce));
    assert!(!with(b"other"));
    let bare = request(&[]).finish();
    assert!(!server.has_valid_nonce(at(T0), &home(), &Message::parse(&bare).unwrap()));
}

#[test]
fn q6_unknown_user_and_wrong_password_look_the_same() {
    for server in [server(&["alice"], &[]), server(&["alice"], &["secret"]), server(&[], &["secret"])] {
        let wrong = rejected(login(&server, T0, "alice", "wrong", None));
        assert_eq!(wrong, rejected(login(&server, T0, "nobody", "wrong", None)));
        assert_eq!(wrong, rejected(login(&server, T0, "1900000000:alice", "wrong", None)));
    }
}

// The key that stands in for missing users is no password for them.
#[test]
fn q6_the_dummy_key_opens_nothing() {
    for server in [server(&["alice"], &[]), server(&["alice"], &["secret"])] {
        let nonce = nonce(&server, T0, &home());
        for name in [&b"nobody"[..], b"\xFF\xFE", b"", b"1900000000:x\0"] {
            let bytes =
                request(&[(attr::USERNAME, name), (attr::REALM, REALM.as_bytes()), (attr::NONCE, &nonce)])
                    .finish_signed(&Key::from_md5_bytes([0; 16]));
            assert_eq!(rejected(ask(&server, T0, &bytes, None)), (401, true));
        }
    }
}

#[test]
fn q17_control_characters_are_refused_not_cut() {
    let server = server(&["bob"], &[]);
    let nonce = nonce(&server, T0, &home());
    for name in [&b"bob\0"[..], b"bob\0x", b"bob\n", b"\x7Fbob", b"bob\xC2\x85", b"bob "] {
        let bytes =
            request(&[(attr::USERNAME, name), (attr::REALM, REALM.as_bytes()), (attr::NONCE, &nonce)])
                .finish_signed(&Key::md5("bob", REALM, "pw-bob").unwrap());
        assert_eq!(rejected(ask(&server, T0, &bytes, None)), (401, true), "{name:?}");
    }
    let mut credentials = Credentials::new(REALM);
    assert_eq!(credentials.add_user("bob\0", "pw"), Err(BadCredential::Disallowed));
    assert_eq!(credentials.add_user("bob", "p\tw"), Err(BadCredential::Disallowed));
    assert_eq!(credentials.add_user("", "pw"), Err(BadCredential::Empty));
    assert_eq!(credentials.add_user("bob", ""), Err(BadCredential::Empty));
    assert_eq!(credentials.add_user(&"b".repeat(509), "pw"), Err(BadCredential::TooLong));
    assert!(credentials.is_empty());
}

#[test]
fn realms_have_to_be_what_clients_make_of_them() {
    for good in ["example.org", "Jos\u{e9}"] {
        assert_eq!(check_realm(good), Ok(()));
    }
    for bad in ["", "a\0", "Jose\u{301}"] {
        assert!(check_realm(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn o3_rest_password_is_base64_of_hmac_sha1() {
    // Computed with: printf %s 1900000000:alice | openssl dgst -sha1 -hmac north -binary | base64
    assert_eq!(*rest_password("north", "1900000000:alice"), "SnH0MEKWgnUzXU+ElSVhRG+O/9g=");
}

// draft-uberti-behave-turn-rest s. 2.2
#[test]
fn o3_rest_names_carry_expiry_and_user() {
    let server = server(&[], &["secret"]);
    for (name, quota_user) in [
        ("1900000000", "1900000000"),
        ("1900000000:alice", "alice"),
        ("alice:1900000000", "alice"),
        ("1900000000:alice:tablet", "alice:tablet"),
        ("alice:tablet:1900000000", "alice:tablet"),
        ("1900000000:1", "1"),
        ("1900000000:", "1900000000:"),
    ] {
        let identity = rest_login(&server, T0, name, "secret").unwrap();
        assert_eq!((&*identity.user, &*identity.quota_user), (name, quota_user));
        assert_eq!(identity.expires_unix(), Some(1_900_000_000));
    }
}

#[test]
fn o3_expiry_is_digits_without_overflow() {
    let server = server(&[], &["secret"]);
    for name in [
        "alice",
        ":",
        ":alice",
        "alice:",
        "+1900000000:alice",
        "-1:alice",
        "1900000000.5:alice",
        "0x71000000:alice",
        " 1900000000:alice",
        "1900000000 :alice",
        "99999999999999999999999:alice",
        "18446744073709551616:alice",
        "\u{661}\u{669}00000000:alice",
    ] {
        assert_eq!(rejected(rest_login(&server, T0, name, "secret")), (401, true), "{name}");
    }
    assert!(rest_login(&server, T0, "18446744073709551615:alice", "secret").is_ok());
}

#[test]
fn o3_expired_credentials_are_unauthenticated() {
    let server = server(&[], &["secret"]);
    assert!(rest_login(&server, T0, &format!("{T0}:alice"), "secret").is_ok());
    assert_eq!(rejected(rest_login(&server, T0 + 1, &format!("{T0}:alice"), "secret")), (401, true));
}

#[test]
fn o3_the_signature_covers_the_full_name() {
    let server = server(&[], &["secret"]);
    let password = rest_password("secret", "1900000000:alice");
    for name in ["1900000000:alicf", "1900000001:alice", "alice:1900000000", "1900000000"] {
        assert_eq!(rejected(login(&server, T0, name, &password, None)), (401, true), "{name}");
    }
}

#[test]
fn o3_any_of_several_secrets_will_do() {
    let server = server(&["static"], &["new", "old", "older"]);
    for secret in ["new", "old", "older"] {
        assert!(rest_login(&server, T0, "1900000000:alice", secret).is_ok(), "{secret}");
    }
    assert!(rest_login(&server, T0, "1900000000:alice", "oldest").is_err());
    assert!(login(&server, T0, "static", "pw-static", None).is_ok());
}

#[test]
fn o3_rest_users_may_use_sha256() {
    let server = server(&[], &["secret"]);
    let nonce = nonce(&server, T0, &home());
    let password = rest_password("secret", "1900000000:alice");
    let bytes = new_style("1900000000:alice", &password, &nonce, SHA256_CHOICE);
    assert_eq!(ask(&server, T0, &bytes, None).unwrap().key().algorithm(), Algorithm::Sha256);
}

#[test]
fn o3_calls_outlive_expiry_and_rotation() {
    let name = format!("{T0}:alice");
    let password = rest_password("secret", &name);
    let server = server(&[], &["secret"]);
    let held = login(&server, T0, &name, &password, None).unwrap();
    let later = T0 + 1800;
    assert!(login(&server, later, &name, &password, Some(&held)).is_ok());
    assert_eq!(rejected(login(&server, later, &name, "wrong", Some(&held))), (401, true));
    server.replace_credentials(credentials(&[], &["next"])).unwrap();
    assert!(login(&server, later, &name, &password, Some(&held)).is_ok());
    // What isn't held has to be valid now.
    assert_eq!(rejected(login(&server, T0, &name, &password, None)), (401, true));
    assert_eq!(rejected(login(&server, later, &name, &rest_password("next", &name), None)), (401, true));
}

#[test]
fn o3_strict_expiry_ends_calls() {
    let name = format!("{T0}:alice");
    let password = rest_password("secret", &name);
    let server = Authenticator::new(credentials(&["bob"], &["secret"]), true, [7; 32]);
    let held = login(&server, T0, &name, &password, None).unwrap();
    assert!(login(&server, T0, &name, &password, Some(&held)).is_ok());
    assert_eq!(rejected(login(&server, T0 + 1, &name, &password, Some(&held))), (401, true));
    let held = login(&server, T0, "bob", "pw-bob", None).unwrap();
    assert!(login(&server, T0 + 86_400, "bob", "pw-bob", Some(&held)).is_ok());
}

// RFC 8656 s. 5: the server answers 441 to the second, so it has to learn who that is.
#[test]
fn t3_another_valid_user_on_the_allocation_is_named() {
    let server = server(&["alice", "bob"], &["secret"]);
    let held = login(&server, T0, "alice", "pw-alice", None).unwrap();
    assert_eq!(&*login(&server, T0, "bob", "pw-bob", Some(&held)).unwrap().user, "bob");
    assert_eq!(rejected(login(&server, T0, "bob", "pw-alice", Some(&held))), (401, true));
    let expired = format!("{}:carol", T0 - 1);
    let password = rest_password("secret", &expired);
    assert_eq!(rejected(login(&server, T0, &expired, &password, Some(&held))), (401, true));
}

#[test]
fn reloading_replaces_users() {
    let server = server(&["alice"], &[]);
    server.replace_credentials(credentials(&["bob"], &[])).unwrap();
    assert!(login(&server, T0, "bob", "pw-bob", None).is_ok());
    assert_eq!(rejected(login(&server, T0, "alice", "pw-alice", None)), (401, true));
    let elsewhere = Credentials::new("elsewhere.example");
    assert_eq!(server.replace_credentials(elsewhere), Err(OtherRealm), "and bob stays");
    assert!(login(&server, T0, "bob", "pw-bob", None).is_ok());
    let mut counted = credentials(&["a", "b"], &["s", ""]);
    counted.add_user("a", "again").unwrap();
    assert_eq!((counted.users(), counted.secrets(), counted.enumerable()), (2, 1, false));
}

#[test]
fn q19_an_identity_prints_its_name_only() {
    let server = server(&["alice"], &[]);
    let identity = login(&server, T0, "alice", "pw-alice", None).unwrap();
    assert_eq!(format!("{identity:?}"), "Identity { user: \"alice\", .. }");
}

proptest! {
    // Q5: no other nonce than the one that was made is accepted.
    #[test]
    fn q5_a_changed_nonce_is_stale(index in 0..33usize, xor in 1..=255u8) {
        let server = server(&["alice"], &[]);
        let mut nonce = nonce(&server, T0, &home());
        nonce[index] ^= xor;
        let outcome = ask(&server, T0, &old_style("alice", REALM, "pw-alice", &nonce), None);
        prop_assert_eq!(rejected(outcome), (438, true));
    }

    #[test]
    fn q12_no_credentials_make_the_server_panic(
        name in prop::collection::vec(any::<u8>(), 0..60), realm in prop::collection::vec(any::<u8>(), 0..20),
        nonce in prop::collection::vec(any::<u8>(), 0..60), list in prop::collection::vec(any::<u8>(), 0..12),
        tag in any::<[u8; 20]>()
    ) {
        let server = server(&["alice"], &["secret"]);
        let bytes = request(&[
            (attr::USERNAME, &name), (attr::REALM, &realm), (attr::NONCE, &nonce),
            (attr::PASSWORD_ALGORITHMS, &list), (attr::MESSAGE_INTEGRITY, &tag),
        ])
        .finish();
        prop_assert!(ask(&server, T0, &bytes, None).is_err());
    }

    #[test]
    fn o3_only_the_signers_password_logs_in(user in "[a-z:]{0,12}", password in "[ -~]{1,30}") {
        let server = server(&[], &["secret"]);
        let name = format!("1900000000:{user}");
        let right = *rest_password("secret", &name) == password;
        prop_assert_eq!(login(&server, T0, &name, &password, None).is_ok(), right);
        prop_assert!(rest_login(&server, T0, &name, "secret").is_ok());
    }
}
