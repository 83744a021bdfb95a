//! `cargo run -p turnpike-admin --example fake -- 127.0.0.1:8080 TOKEN [ALLOCATIONS]`: the
//! administration of a relay that exists in memory only. For working on the dashboard, and for tools
//! that test the API. `TOKEN` may be several with commas between, each with a scope before it
//! (`read:TOKEN`); without one it opens everything.

use std::error::Error;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use turnpike_admin::fake::Fake;
use turnpike_admin::{ManagedRelay, Scope, Settings, Tokens, start};

/// How often an allocation ends and another begins.
const CHURN: Duration = Duration::from_secs(2);

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let listen: SocketAddr = arguments.next().ok_or("usage: fake IP:PORT TOKEN [ALLOCATIONS]")?.parse()?;
    let tokens = tokens(&arguments.next().ok_or("a token is needed")?)?;
    let allocations = arguments.next().map_or(Ok(42), |number| number.parse())?;
    let fake = Fake::new(allocations);
    let relay: Arc<dyn ManagedRelay> = fake.clone();
    let running = start(Settings { listen, tokens, hosts: Vec::new(), tls: None }, relay)?;
    println!("fake relay: http://{}/", running.address());
    loop {
        std::thread::sleep(CHURN);
        fake.churn();
    }
}

fn tokens(given: &str) -> Result<Tokens, String> {
    let mut tokens = Tokens::default();
    for entry in given.split(',') {
        let (scope, token) = entry.split_once(':').unwrap_or((Scope::Admin.name(), entry));
        let scope: Scope = scope.parse().map_err(|()| format!("{scope} is no scope"))?;
        tokens.add(token, [scope]);
    }
    Ok(tokens)
}
