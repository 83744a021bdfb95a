//! turnutils_uclient's lines: a prefix that depends on the version copied, and a body that hasn't
//! changed since 2014.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::stats::{GroupStats, percent};

/// Whose program's output is imitated, line by line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// `259: : ` (4.6.0, 4.6.1; Debian).
    V4_6,
    /// `2026-11-21T21:09:03.211+0000 INFO ` (4.17).
    V4_17,
}

/// What coturn prints as the minimum when there was nothing.
const NO_MINIMUM: u64 = u32::MAX as u64;

/// Prints lines with the prefix.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    style: Style,
    start: Instant,
}

impl Output {
    /// Starts the clock of the 4.6 prefix.
    pub fn new(style: Style) -> Self {
        Self { style, start: Instant::now() }
    }

    /// The style that lines are printed in.
    pub fn style(&self) -> Style {
        self.style
    }

    /// One line of information.
    pub fn info(&self, body: &str) {
        println!("{}{body}", self.prefix("INFO", ""));
    }

    /// One line of error; also on stdout, as coturn's log.
    pub fn error(&self, body: &str) {
        println!("{}{body}", self.prefix("ERROR", "ERROR: "));
    }

    fn prefix(&self, level: &str, mark: &str) -> String {
        match self.style {
            Style::V4_6 => format!("{}: : {mark}", self.start.elapsed().as_secs()),
            Style::V4_17 => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
                format!("{} {level} ", iso_time(now))
            }
        }
    }
}

/// `%FT%T.mmm%z` in UTC.
fn iso_time(since_1970: Duration) -> String {
    let secs = since_1970.as_secs();
    let (year, month, day) = civil_date((secs / 86_400) as i64);
    let (hour, minute, second) = (secs / 3600 % 24, secs / 60 % 60, secs % 60);
    let millis = since_1970.subsec_millis();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}+0000")
}

/// Days since 1970 to a Gregorian date, by counting years from March in 400-year eras.
fn civil_date(days: i64) -> (i64, i64, i64) {
    let shifted = days + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// The line of each second.
pub fn progress(running: u64, sent: u64, received: u64, payload_bytes: u64) -> String {
    let (out, back) = (sent * payload_bytes, received * payload_bytes);
    format!(
        "start_mclient: msz={running}, tot_send_msgs={sent}, tot_recv_msgs={received}, tot_send_bytes ~ {out}, tot_recv_bytes ~ {back}"
    )
}

/// The extra line of `-Y` runs.
pub fn rates(prefix: &str, send_pps: f64, recv_pps: f64, sent: u64, received: u64) -> String {
    format!(
        "{prefix}: send_pps={send_pps:.2}, recv_pps={recv_pps:.2}, total_sent={sent}, total_recv={received}"
    )
}

/// The lines at the end. `invalid`: `-Y invalid`, which expects no answers.
pub fn summary(stats: &GroupStats, payload_bytes: u64, secs: u64, invalid: bool) -> Vec<String> {
    let GroupStats { sent, received, send_dropped, .. } = *stats;
    let tried = sent + send_dropped;
    let dropped = format!("otal send dropped {send_dropped} ({:.6}%)", percent(send_dropped, tried));
    let mut lines = vec![
        format!("start_mclient: tot_send_msgs={sent}, tot_recv_msgs={received}"),
        format!(
            "start_mclient: tot_send_bytes ~ {}, tot_recv_bytes ~ {}",
            sent * payload_bytes,
            received * payload_bytes
        ),
        format!("Total transmit time is {secs}"),
    ];
    if invalid {
        lines.push(format!("T{dropped}"));
        return lines;
    }
    let lost = stats.lost();
    lines.push(format!("Total lost packets {lost} ({:.6}%), t{dropped}", percent(lost, sent)));
    let delays = if stats.round_trip.is_empty() { &stats.one_way } else { &stats.round_trip };
    let (mean, min, max) = delays.summary().map_or((0.0, NO_MINIMUM, 0), |delay| {
        (delay.mean_us / 1000.0, (delay.min_us / 1000.0) as u64, (delay.max_us / 1000.0) as u64)
    });
    lines.push(format!("Average round trip delay {mean:.6} ms; min = {min} ms, max = {max} ms"));
    let deviation = &stats.deviation;
    let ms = |ns: u64| ns / 1_000_000;
    // Of nothing, the C library prints a negative NaN.
    let mean = if received == 0 {
        "-nan".to_owned()
    } else {
        format!("{:.6}", deviation.sum_ns as f64 / deviation.count.max(1) as f64 / 1e6)
    };
    let min = deviation.min_ns.map_or(NO_MINIMUM, ms);
    lines.push(format!("Average jitter {mean} ms; min = {min} ms, max = {} ms", ms(deviation.max_ns)));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn summary_lines_are_coturns_to_the_letter() {
        let mut stats = GroupStats { sent: 1000, received: 990, send_dropped: 10, ..GroupStats::default() };
        stats.round_trip.record(1_500_000);
        stats.deviation.record(2_250_000);
        let lines = summary(&stats, 100, 7, false);
        assert_eq!(lines[0], "start_mclient: tot_send_msgs=1000, tot_recv_msgs=990");
        assert_eq!(lines[1], "start_mclient: tot_send_bytes ~ 100000, tot_recv_bytes ~ 99000");
        assert_eq!(lines[2], "Total transmit time is 7");
        assert_eq!(lines[3], "Total lost packets 10 (1.000000%), total send dropped 10 (0.990099%)");
        assert!(lines[4].starts_with("Average round trip delay 1."), "{}", lines[4]);
        assert!(lines[4].ends_with(" ms; min = 1 ms, max = 1 ms"), "{}", lines[4]);
        assert_eq!(lines[5], "Average jitter 2.250000 ms; min = 2 ms, max = 2 ms");
    }

    #[test]
    fn nothing_received_looks_as_in_4_6_1() {
        let lines = summary(&GroupStats { sent: 3, ..GroupStats::default() }, 100, 15, false);
        assert_eq!(lines[3], "Total lost packets 3 (100.000000%), total send dropped 0 (0.000000%)");
        assert_eq!(lines[4], "Average round trip delay 0.000000 ms; min = 4294967295 ms, max = 0 ms");
        assert_eq!(lines[5], "Average jitter -nan ms; min = 4294967295 ms, max = 0 ms");
    }

    #[test]
    fn times_are_written_as_4_17_writes_them() {
        assert_eq!(iso_time(Duration::from_millis(1_795_295_343_211)), "2026-11-21T21:09:03.211+0000");
        assert_eq!(iso_time(Duration::from_secs(951_782_400)), "2000-02-29T00:00:00.000+0000");
    }
}
