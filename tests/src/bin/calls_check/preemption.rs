//! The preemption model of the running kernel, where it can be changed (5.12, `CONFIG_PREEMPT_DYNAMIC`).

use anyhow::Context as _;

/// What the kernel lists, and where it takes another one.
const MODELS: &str = "/sys/kernel/debug/sched/preempt";

/// The models of this kernel.
pub(crate) struct Preemption {
    models: Vec<String>,
    current: String,
}

impl Preemption {
    /// As the kernel says; where it says nothing, the one model is called `built-in`.
    pub(crate) fn of_this_kernel() -> Self {
        let listed = std::fs::read_to_string(MODELS).unwrap_or_default();
        Self::listed(&listed)
    }

    /// `none voluntary (full) lazy`: the one in force stands in parentheses.
    fn listed(text: &str) -> Self {
        let plain = |word: &str| word.trim_matches(['(', ')']).to_owned();
        let current = text.split_whitespace().find(|word| word.starts_with('('));
        Preemption {
            models: text.split_whitespace().map(plain).collect(),
            current: current.map_or_else(|| "built-in".to_owned(), plain),
        }
    }

    /// The models that are asked for and can be had. If none can, or none is asked for, the one in force.
    pub(crate) fn wanted(&self, asked: &[String]) -> Vec<String> {
        let both: Vec<String> = asked.iter().filter(|model| self.models.contains(model)).cloned().collect();
        if both.is_empty() { vec![self.current.clone()] } else { both }
    }

    /// Puts a model of [`Preemption::wanted`] in force.
    pub(crate) fn set(&self, model: &str) -> anyhow::Result<()> {
        if model == "built-in" {
            return Ok(());
        }
        std::fs::write(MODELS, model).with_context(|| format!("set the preemption model {model}"))?;
        let now = std::fs::read_to_string(MODELS).unwrap_or_default();
        anyhow::ensure!(Self::listed(&now).current == model, "the kernel did not take {model}: {now}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_models_that_the_kernel_has_are_set() {
        let kernel = Preemption::listed("none voluntary (full) lazy\n");
        let ask =
            |models: &[&str]| kernel.wanted(&models.iter().map(|m| (*m).to_owned()).collect::<Vec<_>>());
        assert_eq!(ask(&["none", "lazy"]), ["none", "lazy"]);
        assert_eq!(ask(&["none", "realtime"]), ["none"]);
        assert_eq!(ask(&["realtime"]), ["full"]);
        assert_eq!(ask(&[]), ["full"]);
        assert_eq!(Preemption::listed("").wanted(&["none".to_owned()]), ["built-in"]);
    }
}
