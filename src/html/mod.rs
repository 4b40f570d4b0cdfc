//! Pages for a browser: one HTML file each, pictures inside, nothing fetched, and no script but the page's own.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};
use std::fmt::{self, Write};

/// What every page begins with and says before its own content.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Opening<'a> {
    pub title: &'a str,
    /// One sentence under the title.
    pub summary: &'a str,
    /// What the reader must know, such as why something is missing.
    pub notes: &'a [String],
    /// Styles beside those that all pages share.
    pub styles: &'a str,
}

/// A page under construction.
#[derive(Debug)]
pub(crate) struct Page {
    text: String,
}

impl Page {
    /// The head of a page, its title, summary and notes.
    pub fn open(opening: &Opening<'_>) -> Page {
        Page::begin(opening, None)
    }

    /// The same for a page in which `script`, which the caller puts into it as it is, may run and no other.
    pub fn open_for(script: &str, opening: &Opening<'_>) -> Page {
        Page::begin(opening, Some(script))
    }

    fn begin(opening: &Opening<'_>, script: Option<&str>) -> Page {
        let mut page =
            Page { text: String::from("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n") };
        page.raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n");
        // Nothing but inline styles, inline images and the page's own script may load or run, whatever a caption holds.
        page.raw("<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; ");
        page.raw("style-src 'unsafe-inline'; img-src data:");
        if let Some(script) = script {
            page.put(format_args!("; script-src 'sha256-{}'", STANDARD.encode(Sha256::digest(script))));
        }
        page.raw("\">\n");
        let title = escape(opening.title);
        let styles = (include_str!("base.css"), opening.styles);
        page.put(format_args!("<title>{title}</title>\n<style>\n{}{}</style>\n</head>\n", styles.0, styles.1));
        page.put(format_args!("<body>\n<h1>{title}</h1>\n<p>{}</p>\n", escape(opening.summary)));
        for note in opening.notes {
            page.put(format_args!("<p class=\"note\">{}</p>\n", escape(note)));
        }
        page
    }

    /// Adds markup.
    pub fn raw(&mut self, markup: &str) {
        self.text.push_str(markup);
    }

    /// Adds markup. Text in it must have been escaped.
    pub fn put(&mut self, markup: fmt::Arguments<'_>) {
        // Writing to a String cannot fail.
        let _ = self.text.write_fmt(markup);
    }

    /// Names and values, unfolded under a heading.
    pub fn facts<N: AsRef<str>>(&mut self, heading: &str, facts: &[(N, String)]) {
        self.list("<details open>", heading, facts);
    }

    /// The same, folded until the heading is clicked.
    pub fn folded_facts<N: AsRef<str>>(&mut self, heading: &str, facts: &[(N, String)]) {
        self.list("<details>", heading, facts);
    }

    fn list<N: AsRef<str>>(&mut self, details: &str, heading: &str, facts: &[(N, String)]) {
        self.put(format_args!("{details}<summary>{}</summary>\n<dl>\n", escape(heading)));
        for (name, value) in facts {
            self.put(format_args!("<dt>{}</dt><dd>{}</dd>\n", escape(name.as_ref()), escape(value)));
        }
        self.raw("</dl>\n</details>\n");
    }

    /// The `src` attribute of a picture: an image file of `kind` (`png`, `jpeg`).
    pub fn source(&mut self, kind: &str, file: &[u8]) {
        self.put(format_args!("src=\"data:image/{kind};base64,"));
        STANDARD.encode_string(file, &mut self.text);
        self.raw("\"");
    }

    /// The whole page.
    pub fn close(mut self) -> String {
        self.raw("</body>\n</html>\n");
        self.text
    }
}

/// Text as HTML shows it: `& < > " '` escaped, control characters made visible.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c if c.is_control() && !matches!(c, '\n' | '\t') => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}
