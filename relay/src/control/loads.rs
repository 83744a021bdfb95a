//! How busy workers are.

use std::sync::Mutex;

use super::convert::Moment;
use super::lock::lock;
use crate::worker::WorkerHandle;

/// How busy workers were lately, from two looks at their CPU time.
#[derive(Debug, Default)]
pub(super) struct Loads(Mutex<Vec<Look>>);

#[derive(Clone, Copy, Debug, Default)]
struct Look {
    mono_ns: u64,
    cpu_ns: u64,
    ratio: f64,
}

impl Loads {
    /// Looks at all workers; to be called once a second.
    pub(super) fn sample(&self, workers: &[WorkerHandle]) {
        let mono_ns = Moment::now().mono_ns;
        let mut looks = lock(&self.0);
        looks.resize(workers.len(), Look::default());
        for (look, worker) in looks.iter_mut().zip(workers) {
            let cpu_ns = worker.status.report().load.cpu_ns;
            let elapsed_ns = mono_ns.saturating_sub(look.mono_ns);
            let ratio = cpu_ns.saturating_sub(look.cpu_ns) as f64 / elapsed_ns.max(1) as f64;
            *look = Look { mono_ns, cpu_ns, ratio: ratio.clamp(0.0, 1.0) };
        }
    }

    pub(super) fn ratio(&self, worker: usize) -> f64 {
        lock(&self.0).get(worker).map_or(0.0, |look| look.ratio)
    }
}
