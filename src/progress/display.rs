//! Standard error, shared by bars and log lines.

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::io::{self, IsTerminal, Write};
use tracing_subscriber::fmt::MakeWriter;

/// Steps of a bar: totals may be beyond what a bar can count.
const STEPS: u64 = 10_000;

/// Standard error, as a place for both bars and log lines. Clones share the place.
#[derive(Clone, Debug)]
pub struct Display {
    bars: MultiProgress,
    terminal: bool,
}

impl Display {
    /// Bars if standard error is a terminal, else plain lines.
    pub fn new() -> Display {
        Display::on(io::stderr().is_terminal())
    }

    /// Plain lines, wherever standard error goes: for logs in JSON.
    pub fn plain() -> Display {
        Display::on(false)
    }

    fn on(terminal: bool) -> Display {
        let target = if terminal { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
        Display { bars: MultiProgress::with_draw_target(target), terminal }
    }

    /// Whether bars are drawn.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    pub(super) fn bars(&self) -> &MultiProgress {
        &self.bars
    }

    /// The writer for the log: `tracing_subscriber::fmt().with_writer(display.writer())`.
    pub fn writer(&self) -> LogWriter {
        LogWriter { bars: self.bars.clone() }
    }
}

/// Writes log lines to standard error, above the bars.
#[derive(Clone, Debug)]
pub struct LogWriter {
    bars: MultiProgress,
}

impl Default for Display {
    fn default() -> Display {
        Display::new()
    }
}

impl<'a> MakeWriter<'a> for LogWriter {
    type Writer = LogLine<io::Stderr>;

    fn make_writer(&'a self) -> Self::Writer {
        LogLine { bars: self.bars.clone(), to: io::stderr(), text: Vec::new() }
    }
}

/// One log line, written at once when it is flushed or dropped.
#[derive(Debug)]
pub struct LogLine<W: Write> {
    bars: MultiProgress,
    to: W,
    text: Vec<u8>,
}

impl<W: Write> Write for LogLine<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.text.is_empty() {
            return Ok(());
        }
        let text = std::mem::take(&mut self.text);
        let to = &mut self.to;
        self.bars.suspend(|| to.write_all(&text).and_then(|()| to.flush()))
    }
}

impl<W: Write> Drop for LogLine<W> {
    fn drop(&mut self) {
        // A log that cannot be written has nowhere to say so.
        let _ = self.flush();
    }
}

/// Two lines: how far the run is, and what its stages do.
pub(super) struct Bars {
    run: ProgressBar,
    stages: ProgressBar,
}

impl Bars {
    pub fn new(bars: &MultiProgress) -> Bars {
        let style = |template| ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let add = |bar: ProgressBar, template| bars.add(bar).with_style(style(template));
        Bars {
            run: add(ProgressBar::new(STEPS), "[{elapsed_precise}] {bar:24} {msg}"),
            stages: add(ProgressBar::new_spinner(), "           {msg}"),
        }
    }

    pub fn draw(&self, fraction: Option<f64>, line: String, stages: String) {
        self.run.set_position((fraction.unwrap_or(0.0) * STEPS as f64) as u64);
        self.run.set_message(line);
        self.stages.set_message(stages);
    }

    pub fn clear(&self) {
        self.run.finish_and_clear();
        self.stages.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use indicatif::TermLike;
    use std::sync::{Arc, Mutex};

    const WIDTH: usize = 100;

    /// A terminal's lines and cursor. Log lines are written to it as they are to the real one, past the bars.
    #[derive(Clone, Debug, Default)]
    struct Screen(Arc<Mutex<(Vec<String>, usize, usize)>>);

    impl Screen {
        fn lines(&self) -> Vec<String> {
            let lines = self.0.lock().unwrap().0.iter().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>();
            lines.into_iter().filter(|line| !line.is_empty()).collect()
        }

        fn put(&self, text: &str) {
            let (lines, row, column) = &mut *self.0.lock().unwrap();
            for letter in text.chars() {
                // Bars end at the last column: a terminal goes on with the next line.
                if letter >= ' ' && *column == WIDTH {
                    (*row, *column) = (*row + 1, 0);
                }
                if lines.len() <= *row {
                    lines.resize(*row + 1, String::new());
                }
                match letter {
                    '\n' => (*row, *column) = (*row + 1, 0),
                    '\r' => *column = 0,
                    _ => {
                        let mut cells: Vec<char> = lines[*row].chars().collect();
                        cells.resize(cells.len().max(*column + 1), ' ');
                        cells[*column] = letter;
                        lines[*row] = cells.into_iter().collect();
                        *column += 1;
                    }
                }
            }
        }
    }

    impl TermLike for Screen {
        fn width(&self) -> u16 {
            WIDTH as u16
        }
        fn move_cursor_up(&self, n: usize) -> io::Result<()> {
            let at = &mut self.0.lock().unwrap().1;
            *at = at.saturating_sub(n);
            Ok(())
        }
        fn move_cursor_down(&self, n: usize) -> io::Result<()> {
            self.0.lock().unwrap().1 += n;
            Ok(())
        }
        fn move_cursor_right(&self, n: usize) -> io::Result<()> {
            self.0.lock().unwrap().2 += n;
            Ok(())
        }
        fn move_cursor_left(&self, n: usize) -> io::Result<()> {
            let at = &mut self.0.lock().unwrap().2;
            *at = at.saturating_sub(n);
            Ok(())
        }
        fn write_line(&self, text: &str) -> io::Result<()> {
            self.put(&format!("{text}\n"));
            Ok(())
        }
        fn write_str(&self, text: &str) -> io::Result<()> {
            self.put(text);
            Ok(())
        }
        fn clear_line(&self) -> io::Result<()> {
            let (lines, row, column) = &mut *self.0.lock().unwrap();
            *column = 0;
            lines.get_mut(*row).map(String::clear);
            Ok(())
        }
        fn flush(&self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Write for Screen {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.put(&String::from_utf8_lossy(bytes));
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn log_lines_stand_above_the_bars() {
        let screen = Screen::default();
        let target = ProgressDrawTarget::term_like_with_hz(Box::new(screen.clone()), 255);
        let bars = MultiProgress::with_draw_target(target);
        let drawn = Bars::new(&bars);
        drawn.draw(Some(0.5), "half-way".into(), "busy: read 1 %".into());
        for text in ["a line\n", "another\n"] {
            let mut line = LogLine { bars: bars.clone(), to: screen.clone(), text: Vec::new() };
            let (head, tail) = text.split_at(3);
            line.write_all(head.as_bytes()).unwrap();
            line.write_all(tail.as_bytes()).unwrap();
        }
        drawn.run.force_draw();
        let lines = screen.lines();
        assert_eq!(lines.len(), 4, "{lines:?}");
        assert_eq!(&lines[..2], ["a line", "another"]);
        assert!(lines[2].ends_with("half-way") && lines[3].ends_with("busy: read 1 %"), "{lines:?}");
        drawn.clear();
        assert_eq!(screen.lines(), ["a line", "another"]);
    }
}
