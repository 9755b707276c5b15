//! Prometheus' text format, read strictly: what is not exactly as the format has it fails the test.

use std::collections::{BTreeMap, BTreeSet};

/// A scrape.
#[derive(Debug, Clone, Default)]
pub struct Metrics {
    /// Type of each family.
    pub types: BTreeMap<String, String>,
    /// Value of each series, by its name and labels as they stand.
    pub series: BTreeMap<String, f64>,
}

impl Metrics {
    /// Reads a scrape, and fails unless every line is in its place.
    pub fn parse(text: &str) -> Self {
        assert!(text.ends_with('\n'), "the last line has no end");
        let mut metrics = Self::default();
        let mut family = String::new();
        let mut helped = BTreeSet::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').unwrap_or_else(|| panic!("{line}"));
                assert!(helped.insert(name.to_owned()) && help.ends_with('.'), "{line}");
                family = name.to_owned();
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap_or_else(|| panic!("{line}"));
                assert!(name == family && ["counter", "gauge", "histogram"].contains(&kind), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{line}");
                assert!(metrics.types.insert(name.to_owned(), kind.to_owned()).is_none(), "{line}");
            } else {
                metrics.sample(line, &family);
            }
        }
        metrics.assert_histograms();
        metrics
    }

    fn sample(&mut self, line: &str, family: &str) {
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("{line}"));
        let name = series.split('{').next().unwrap();
        let kind = self.types.get(family).unwrap_or_else(|| panic!("{line} without a type"));
        let suffix = name.strip_prefix(family).unwrap_or_else(|| panic!("{line} stands under {family}"));
        let suffixes: &[&str] = if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
        assert!(suffixes.contains(&suffix), "{line}");
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'), "{line}");
        if let Some(labels) = series.strip_prefix(name).filter(|labels| !labels.is_empty()) {
            let labels = labels.strip_prefix('{').and_then(|labels| labels.strip_suffix('}'));
            for label in labels.unwrap_or_else(|| panic!("{line}")).split(',') {
                let (name, value) = label.split_once("=\"").unwrap_or_else(|| panic!("{line}"));
                assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{line}");
                assert!(value.ends_with('"') && !value.trim_end_matches('"').contains(['"', '\\']), "{line}");
            }
        }
        let value = match value {
            "+Inf" => f64::INFINITY,
            number => number.parse().unwrap_or_else(|_| panic!("{line}")),
        };
        assert!(value >= 0.0, "{line}");
        assert!(self.series.insert(series.to_owned(), value).is_none(), "{line} stands there twice");
    }

    fn assert_histograms(&self) {
        for (series, count) in &self.series {
            let Some((name, labels)) = series.split_once("_count{") else { continue };
            let labels = labels.strip_suffix('}').unwrap();
            let last = format!("{name}_bucket{{{labels},le=\"+Inf\"}}");
            assert_eq!(self.series.get(&last), Some(count), "{last}");
        }
    }

    /// The value of a series, by its name and labels as they stand.
    pub fn value(&self, series: &str) -> f64 {
        *self.series.get(series).unwrap_or_else(|| panic!("no {series} among {:#?}", self.series.keys()))
    }

    /// The values of a family's series, summed.
    pub fn sum(&self, family: &str) -> f64 {
        let of = |series: &&String| series.split('{').next() == Some(family);
        self.series.iter().filter(|(series, _)| of(series)).map(|(_, value)| value).sum()
    }

    /// Whether a family has any series.
    pub fn has(&self, family: &str) -> bool {
        self.series.keys().any(|series| series.split('{').next() == Some(family))
    }
}
