//! A real Prometheus with a configuration of its own, and questions to it.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::agent::free_port;
use crate::apps::PATIENCE;
use crate::http;
use crate::process::{Process, output};
use crate::workspace;

/// A running Prometheus that scrapes every second.
#[derive(Debug)]
pub struct Prometheus {
    process: Process,
    port: u16,
}

/// One series of an answer.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value; of a native histogram its count.
    pub value: f64,
    /// The native histogram.
    pub histogram: Option<Value>,
}

impl Prometheus {
    /// Starts one that scrapes an agent on this machine.
    ///
    /// # Errors
    /// When its configuration is wrong or it does not come up.
    pub fn start(folder: &Path, agent_port: u16) -> anyhow::Result<Self> {
        let programs = workspace::cache().join("prometheus/usr/bin");
        let configuration = folder.join("prometheus.yml");
        std::fs::write(
            &configuration,
            format!(
                "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n- job_name: grpcscope\n  \
                 always_scrape_classic_histograms: true\n  static_configs: [{{targets: ['127.0.0.1:{agent_port}']}}]\n"
            ),
        )?;
        output(Command::new(programs.join("promtool")).args(["check", "config"]).arg(&configuration))?;
        let port = free_port()?;
        let mut command = Command::new(programs.join("prometheus"));
        command
            .arg(format!("--config.file={}", configuration.display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("prometheus").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .arg("--enable-feature=native-histograms");
        let process = Process::start("prometheus", &mut command, &folder.join("prometheus.log"))?;
        let prometheus = Prometheus { process, port };
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            if http::get(port, "/-/ready").is_ok_and(|answer| answer.status == 200) {
                return Ok(prometheus);
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        bail!("Prometheus is not ready; {}", prometheus.process.last_words())
    }

    /// Evaluates an expression now.
    ///
    /// # Errors
    /// When Prometheus refuses it.
    pub fn query(&self, expression: &str) -> anyhow::Result<Vec<Sample>> {
        let answer = http::get(self.port, &format!("/api/v1/query?query={}", http::encoded(expression)))?;
        let value: Value = serde_json::from_slice(&answer.body).context("read Prometheus' answer")?;
        if value["status"] != "success" {
            bail!("Prometheus refuses `{expression}`: {}", value["error"]);
        }
        let result = value["data"]["result"].as_array().context("no vector in Prometheus' answer")?;
        Ok(result.iter().map(sample).collect())
    }

    /// Evaluates an expression until its only series has a value that is accepted.
    ///
    /// # Errors
    /// When that does not come about; the message says what there was last.
    pub fn wait_for(&self, expression: &str, accept: impl Fn(f64) -> bool) -> anyhow::Result<f64> {
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let samples = self.query(expression)?;
            if let [sample] = &samples[..]
                && accept(sample.value)
            {
                return Ok(sample.value);
            }
            if Instant::now() > deadline {
                bail!("`{expression}` gives {samples:?}; {}", self.process.last_words());
            }
            std::thread::sleep(Duration::from_millis(250));
        }
    }
}

fn sample(series: &Value) -> Sample {
    let labels = series["metric"].as_object().map(|labels| {
        labels
            .iter()
            .map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()))
            .collect()
    });
    let histogram = series.get("histogram").and_then(|pair| pair.get(1)).cloned();
    let number = |value: &Value| value.as_str().and_then(|text| text.parse().ok());
    let value = match &histogram {
        Some(histogram) => number(&histogram["count"]),
        None => number(&series["value"][1]),
    };
    Sample { labels: labels.unwrap_or_default(), value: value.unwrap_or(f64::NAN), histogram }
}
