//! What is measured: what the pipeline names, or each of several runs.

use super::figure::Measured;
use super::plan::folder;
use crate::config::{EvaluateRun, Pipeline};
use crate::jobs::JobError;
use std::collections::BTreeMap;

/// One thing to measure.
#[derive(Clone, Debug)]
pub struct Run {
    /// Empty where there is no other.
    pub name: String,
    pub at: Option<f64>,
    pub pipeline: Pipeline,
}

impl Run {
    /// Those of `[[evaluate.run]]`, or the pipeline itself.
    ///
    /// # Errors
    /// [`JobError::Usage`] for a report that would not be local.
    pub fn all(pipeline: &Pipeline) -> Result<Vec<Run>, JobError> {
        if pipeline.evaluate.run.is_empty() {
            return Ok(vec![Run { name: String::new(), at: None, pipeline: pipeline.clone() }]);
        }
        // Their report is one, and where the pipeline itself has it.
        let to = folder(pipeline)?.display().to_string();
        let one = |run: &EvaluateRun| {
            let mut pipeline = pipeline.clone();
            pipeline.evaluate.run.clear();
            pipeline.evaluate.to.clone_from(&to);
            let replaced = [
                (&run.model, &mut pipeline.chain.model),
                (&run.tokenizer, &mut pipeline.tokenizer.weights),
                (&run.output, &mut pipeline.output.url),
            ];
            for (given, key) in replaced {
                if let Some(given) = given {
                    key.clone_from(given);
                }
            }
            Run { name: run.name.clone(), at: run.at, pipeline }
        };
        Ok(pipeline.evaluate.run.iter().map(one).collect())
    }

    /// An error that says which of several runs it is of.
    pub fn named(&self, error: JobError) -> JobError {
        match error {
            error if self.name.is_empty() => error,
            JobError::Usage(text) => JobError::Usage(format!("evaluate.run \"{}\": {text}", self.name)),
            JobError::Failed(text) => JobError::Failed(format!("evaluate.run \"{}\": {text}", self.name)),
            error => error,
        }
    }
}

/// What runs have in common, and what each has besides.
pub fn subjects(runs: Vec<(Run, BTreeMap<String, String>)>) -> (BTreeMap<String, String>, Vec<Measured>) {
    let first = runs.first().map(|(_, subject)| subject.clone()).unwrap_or_default();
    let everywhere = |key: &String, value: &String| runs.iter().all(|(_, subject)| subject.get(key) == Some(value));
    let common: BTreeMap<String, String> = first.into_iter().filter(|(key, value)| everywhere(key, value)).collect();
    let own = |(run, subject): (Run, BTreeMap<String, String>)| {
        let subject = subject.into_iter().filter(|(key, _)| !common.contains_key(key)).collect();
        Measured { name: run.name, at: run.at, subject }
    };
    let measured = match runs.len() {
        0 | 1 if runs.iter().all(|(run, _)| run.name.is_empty()) => Vec::new(),
        _ => runs.into_iter().map(own).collect(),
    };
    (common, measured)
}

/// Notes of runs: what all say once, the others behind the names of their runs.
pub fn notes(runs: &[(String, Vec<String>)]) -> Vec<String> {
    let mut saying: Vec<(&String, Vec<&str>)> = Vec::new();
    for (run, notes) in runs {
        for note in notes {
            match saying.iter_mut().find(|(said, _)| *said == note) {
                Some((_, by)) => by.push(run),
                None => saying.push((note, vec![run])),
            }
        }
    }
    let told = |(note, by): (&String, Vec<&str>)| match by.len() == runs.len() {
        true => note.clone(),
        false => format!("{}: {note}", by.join(", ")),
    };
    saying.into_iter().map(told).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipeline(text: &str) -> Pipeline {
        Pipeline::parse_for(crate::config::Needs::Evaluate, text, "p.toml", &[]).unwrap()
    }

    #[test]
    fn runs_replace_what_they_name() {
        let text = "[output]\nurl = \"out\"\n[chain]\nmodel = \"m\"\n";
        let alone = Run::all(&pipeline(text)).unwrap();
        assert_eq!((alone.len(), alone[0].name.as_str(), &alone[0].pipeline), (1, "", &pipeline(text)));
        let several = "[[evaluate.run]]\nname = \"a\"\nat = 1\n[[evaluate.run]]\nname = \"b\"\nat = 2\nmodel = \"n\"\noutput = \"o\"\n";
        let runs = Run::all(&pipeline(&format!("{text}{several}"))).unwrap();
        let told = |run: &Run| (run.name.clone(), run.pipeline.chain.model.clone(), run.pipeline.output.url.clone());
        assert_eq!(told(&runs[0]), ("a".to_owned(), "m".to_owned(), "out".to_owned()));
        assert_eq!(told(&runs[1]), ("b".to_owned(), "n".to_owned(), "o".to_owned()));
        assert!(
            runs.iter().all(|run| run.pipeline.evaluate.to == "out/evaluate" && run.pipeline.evaluate.run.is_empty())
        );
        let named = runs[1].named(JobError::Usage("no".to_owned()));
        assert_eq!(named.to_string(), "evaluate.run \"b\": no");
    }

    #[test]
    fn runs_need_names_and_places() {
        let fault = |runs: &str| {
            let text = format!("[output]\nurl = \"out\"\n{runs}");
            Pipeline::parse_for(crate::config::Needs::Evaluate, &text, "p.toml", &[]).unwrap_err().to_string()
        };
        let twice = "[[evaluate.run]]\nname = \"a\"\n[[evaluate.run]]\nname = \"a\"\n";
        assert!(fault(twice).contains("a name of its own, not \"a\""), "{}", fault(twice));
        let half = "[[evaluate.run]]\nname = \"a\"\nat = 1\n[[evaluate.run]]\nname = \"b\"\n";
        assert!(fault(half).contains("for all runs or for none"), "{}", fault(half));
        let unknown = "[[evaluate.run]]\nname = \"a\"\nmodle = \"b\"\n";
        assert!(fault(unknown).contains("did you mean `model`?"), "{}", fault(unknown));
        let scorer = "[evaluate]\nscorer = \"shapes\"\nscorer_length = 3\n";
        assert!(fault(scorer).contains("for TorchScript modules alone"), "{}", fault(scorer));
    }

    #[test]
    fn what_runs_share_is_told_once() {
        let map = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
        };
        let run = |name: &str| Run { name: name.to_owned(), at: None, pipeline: Pipeline::default() };
        let (common, own) = subjects(vec![
            (run("a"), map(&[("seed", "1"), ("chain", "x")])),
            (run("b"), map(&[("seed", "1"), ("chain", "y"), ("samples", "z")])),
        ]);
        assert_eq!(common, map(&[("seed", "1")]));
        assert_eq!((own[0].subject.clone(), own[1].subject.len()), (map(&[("chain", "x")]), 2));
        let (common, own) = subjects(vec![(run(""), map(&[("seed", "1")]))]);
        assert_eq!((common.len(), own), (1, Vec::new()));
        let said = |run: &str, notes: &[&str]| (run.to_owned(), notes.iter().map(|note| (*note).to_owned()).collect());
        let all: Vec<(String, Vec<String>)> = vec![said("a", &["both", "one"]), said("b", &["both"])];
        assert_eq!(notes(&all), ["both", "a: one"]);
    }
}
