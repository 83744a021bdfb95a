//! Metrics one after another, each with all its samples.

use std::fmt;

use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use crate::model::Histogram;

/// Names and values of labels.
pub type Labels = Vec<(&'static str, String)>;

/// Where metrics are written.
pub struct Page<'a>(pub DescriptorEncoder<'a>);

impl Page<'_> {
    /// A number that only grows; `_total` is added to its name.
    pub fn counter(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, u64)>,
    ) -> fmt::Result {
        self.metric(name, help, MetricType::Counter, samples, |metric, value| {
            metric.encode_counter::<NoLabelSet, u64, u64>(value, None)
        })
    }

    /// A number with a fraction that only grows; `_total` is added to its name.
    pub fn counter_f64(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, f64)>,
    ) -> fmt::Result {
        self.metric(name, help, MetricType::Counter, samples, |metric, value| {
            metric.encode_counter::<NoLabelSet, f64, f64>(value, None)
        })
    }

    /// A number as it is now.
    pub fn gauge(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, u64)>,
    ) -> fmt::Result {
        self.metric(name, help, MetricType::Gauge, samples, |metric, value| metric.encode_gauge(value))
    }

    /// A number with a fraction as it is now.
    pub fn gauge_f64(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, f64)>,
    ) -> fmt::Result {
        self.metric(name, help, MetricType::Gauge, samples, |metric, value| metric.encode_gauge(value))
    }

    /// How often something took how long.
    pub fn histogram<'h>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl IntoIterator<Item = (Labels, &'h Histogram)>,
    ) -> fmt::Result {
        self.metric(name, help, MetricType::Histogram, samples, |metric, histogram| {
            let bounds = histogram.bounds_secs.iter().copied().chain([f64::INFINITY]);
            let buckets: Vec<(f64, u64)> = bounds.zip(histogram.counts.iter().copied()).collect();
            let count = histogram.counts.iter().sum();
            metric.encode_histogram::<NoLabelSet>(histogram.sum_secs, count, &buckets, None)
        })
    }

    /// A metric of which nothing is known yet is left out.
    fn metric<V>(
        &mut self,
        name: &str,
        help: &str,
        kind: MetricType,
        samples: impl IntoIterator<Item = (Labels, V)>,
        write: impl Fn(&mut MetricEncoder<'_>, &V) -> fmt::Result,
    ) -> fmt::Result {
        let mut samples = samples.into_iter().peekable();
        if samples.peek().is_none() {
            return Ok(());
        }
        let mut metric = self.0.encode_descriptor(name, help, None, kind)?;
        for (labels, value) in samples {
            if labels.is_empty() {
                write(&mut metric, &value)?;
            } else {
                write(&mut metric.encode_family(&labels)?, &value)?;
            }
        }
        Ok(())
    }
}
