//! Log lines on standard error, by tracing-subscriber.

use crate::cli::LogFormat;
use imagebart::progress::Display;
use std::io::IsTerminal;
use tracing_subscriber::EnvFilter;

/// Starts logging. `RUST_LOG` filters as usual; without it imagebart's own lines and those of `object_store`, which tells of the requests
/// it repeats, from `info` up, of others from `warn` up.
pub fn start(format: LogFormat, display: &Display) {
    let filter =
        EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn,imagebart=info,object_store=info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(display.writer());
    match format {
        LogFormat::Json => builder.json().flatten_event(true).init(),
        LogFormat::Text => builder.with_target(false).with_ansi(std::io::stderr().is_terminal()).init(),
    }
}
