//! What was found in an output directory.

use std::fmt;

/// Problems and gaps that the report's text lists in full.
const SHOWN: usize = 50;

/// What is wrong with one file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The file's path in its store.
    pub file: String,
    /// One sentence.
    pub detail: String,
}

/// What there is of one table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// `latents` or `samples`.
    pub table: &'static str,
    /// Units the manifest lists; none without a readable manifest.
    pub units: Option<u64>,
    /// Units with a file of rows, damaged or not.
    pub done: u64,
    /// Readable rows.
    pub rows: u64,
    /// Readable rows of rejects.
    pub rejects: u64,
}

/// What [`verify`](super::verify) found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// The directory's path in its store.
    pub root: String,
    /// The tables that are there.
    pub tables: Vec<Counts>,
    /// Rows of the decisions about samples, where there are any.
    pub decisions: Option<u64>,
    /// What is wrong, in the order of files.
    pub problems: Vec<Problem>,
    /// Units of the manifests that are not done.
    pub gaps: Vec<String>,
}

impl VerifyReport {
    /// Whether everything is there and nothing is wrong.
    pub fn is_ok(&self) -> bool {
        self.problems.is_empty() && self.gaps.is_empty()
    }

    pub(super) fn add(&mut self, file: impl ToString, detail: impl ToString) {
        self.problems.push(Problem { file: file.to_string(), detail: detail.to_string() });
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { table, units, done, rows, rejects } = self;
        let units = units.map_or("an unknown number of".to_owned(), |units| units.to_string());
        write!(f, "{table}: {done} of {units} units done, {rows} rows, {rejects} rejects")
    }
}

impl fmt::Display for VerifyReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for table in &self.tables {
            writeln!(f, "{table}")?;
        }
        if let Some(rows) = self.decisions {
            writeln!(f, "decisions: {rows} rows")?;
        }
        for problem in self.problems.iter().take(SHOWN) {
            writeln!(f, "problem: {}: {}", problem.file, problem.detail)?;
        }
        for gap in self.gaps.iter().take(SHOWN) {
            writeln!(f, "missing: unit {gap}")?;
        }
        let hidden = self.problems.len().saturating_sub(SHOWN) + self.gaps.len().saturating_sub(SHOWN);
        if hidden > 0 {
            writeln!(f, "... and {hidden} more")?;
        }
        match (self.problems.len(), self.gaps.len()) {
            (0, 0) => write!(f, "OK"),
            (0, gaps) => write!(
                f,
                "INCOMPLETE: what is there is sound; {gaps} units are missing, run the same command again to add them"
            ),
            (problems, gaps) => write!(f, "NOT OK: {problems} problems, {gaps} units missing"),
        }
    }
}
