//! The report in one sentence: what a reader takes away who reads nothing else.

use serde::Serialize;

use super::{Report, TrialSummary, VideoSummary};

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The verdict as a word for programs.
    pub kind: VerdictKind,
    /// The verdict as a sentence for people.
    pub text: String,
}

/// The kinds of outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum VerdictKind {
    /// There is nothing to judge: nothing was measured, or no packet was sent.
    Nothing,
    /// Every client could be set up, and no packet was lost.
    Clean,
    /// Every client could be set up, and some packets were lost.
    Loss,
    /// Packets were sent, and none came back.
    NothingReceived,
    /// Not all clients could be set up.
    SetupIncomplete,
    /// A search found a rate that loses no more than is allowed.
    RateFound,
    /// A search found that even its lowest rate loses more.
    NoRate,
}

impl Verdict {
    /// Of a finished report; `allowed_loss` is `--fail-above-loss`, percent.
    pub fn of(report: &Report, allowed_loss: Option<f64>) -> Self {
        let mut verdict = if let Some(video) = &report.video {
            of_video(video, allowed_loss)
        } else if report.search.is_some() {
            of_search(report)
        } else if report.trials.is_empty() {
            of_setup(report)
        } else {
            of_trials(report, allowed_loss)
        };
        if report.trials.iter().any(|trial| trial.generator.is_bottleneck) && report.search.is_none() {
            verdict.text += "; the generator could not keep up, so this says little about the server";
        }
        if report.interrupted {
            verdict.text += "; stopped by a signal before the end";
        }
        verdict
    }
}

fn verdict(kind: VerdictKind, text: String) -> Verdict {
    Verdict { kind, text }
}

fn of_setup(report: &Report) -> Verdict {
    let Some(setup) = &report.setup else {
        return verdict(VerdictKind::Nothing, "nothing was measured".into());
    };
    let (ready, wanted) = (setup.ready, setup.wanted);
    match setup.failures.first() {
        None if ready == wanted => verdict(VerdictKind::Clean, format!("all {wanted} clients were set up")),
        None => verdict(VerdictKind::SetupIncomplete, format!("{ready} of {wanted} clients were set up")),
        Some(first) => verdict(
            VerdictKind::SetupIncomplete,
            format!("{ready} of {wanted} clients were set up: {}", first.reason),
        ),
    }
}

fn of_trials(report: &Report, allowed_loss: Option<f64>) -> Verdict {
    let trials = &report.trials;
    let sent: u64 = trials.iter().map(|trial| trial.total.sent).sum();
    let worst = trials.iter().max_by(|a, b| a.total.loss_percent.total_cmp(&b.total.loss_percent));
    let Some(worst) = worst.filter(|_| sent > 0) else {
        return verdict(VerdictKind::Nothing, "no packet was sent".into());
    };
    let exit = match allowed_loss {
        None => "; the exit status is 0 whatever is lost, unless --fail-above-loss PERCENT is given".into(),
        Some(limit) if worst.total.loss_percent > limit => format!(", more than the {limit} % allowed"),
        Some(limit) => format!(", within the {limit} % allowed"),
    };
    if trials.iter().all(|trial| trial.total.received == 0) {
        let text = format!("100 % LOSS: {sent} packets were sent and none came back{exit}");
        return verdict(VerdictKind::NothingReceived, text);
    }
    if worst.total.lost == 0 {
        return verdict(VerdictKind::Clean, format!("none of {sent} packets was lost"));
    }
    let TrialSummary { label, total, .. } = worst;
    let place =
        if trials.len() > 1 { format!(" in {label}, the worst of {}", trials.len()) } else { String::new() };
    let (lost, of, percent) = (total.lost, total.sent, total.loss_percent);
    verdict(VerdictKind::Loss, format!("{percent:.4} % lost: {lost} of {of} packets{place}{exit}"))
}

fn of_video(video: &VideoSummary, allowed_loss: Option<f64>) -> Verdict {
    let VideoSummary { packets_lost, packets_sent, loss_percent, viewed, .. } = video;
    if *packets_sent == 0 {
        return verdict(VerdictKind::Nothing, "no packet was sent".into());
    }
    let mut text = format!(
        "{} of {} frames frozen in {} freezes, {} late; {packets_lost} of {packets_sent} packets lost",
        viewed.frozen, viewed.frames, viewed.freezes, viewed.late
    );
    if let Some(limit) = allowed_loss.filter(|limit| loss_percent > limit) {
        text += &format!(", more than the {limit} % allowed");
    }
    let kind = match packets_lost {
        0 => VerdictKind::Clean,
        all if all == packets_sent => VerdictKind::NothingReceived,
        _ => VerdictKind::Loss,
    };
    verdict(kind, text)
}

fn of_search(report: &Report) -> Verdict {
    let results = report.search.iter().flat_map(|search| &search.results);
    let parts: Vec<String> = results
        .clone()
        .map(|found| {
            let bound = if found.max_loss_percent == 0.0 {
                "without loss".to_owned()
            } else {
                format!("with at most {} % lost", found.max_loss_percent)
            };
            match found.rate_pps {
                None => format!("no rate tried passed {bound}"),
                Some(rate) if found.is_lower_bound => {
                    format!(
                        "at least {rate:.0} packets/s {bound} (the generator or --max-rate was the limit)"
                    )
                }
                Some(rate) => format!("{rate:.0} packets/s {bound}"),
            }
        })
        .collect();
    let found = results.clone().any(|found| found.rate_pps.is_some());
    verdict(if found { VerdictKind::RateFound } else { VerdictKind::NoRate }, parts.join(", "))
}
