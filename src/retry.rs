//! Requests of a store, repeated where a repetition can help.
//!
//! The clients of network stores repeat requests themselves. What is here comes on top of that, for every kind of store: a
//! local disk, a store of the caller's own, and a network that was gone for longer than the client's patience.

use bytes::Bytes;
use object_store::{Error, GetResult};
use std::time::Duration;

/// How failed requests are repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retries {
    /// How often a request is made before it fails for good.
    pub attempts: u32,
    /// The wait after the first failure; it doubles each time.
    pub backoff: Duration,
    /// How long an answer, or the next piece of one, may take before it counts as a failure. Longer than what the clients of
    /// network stores allow themselves, their own repetitions included: this ends what nothing else would.
    pub stall: Duration,
}

impl Default for Retries {
    fn default() -> Self {
        Retries { attempts: 4, backoff: Duration::from_millis(250), stall: Duration::from_secs(300) }
    }
}

impl Retries {
    /// Makes `request` until it succeeds, or fails for good. Each repetition is logged; `what` names the object.
    ///
    /// # Errors
    /// The last failure, or the first one that a repetition cannot help.
    pub async fn run<T, F>(&self, what: &str, mut request: impl FnMut() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        self.repeat(what, || self.piece(request())).await
    }

    /// The same for a request that comes in pieces, whose time is taken piece by piece: see [`Retries::piece`].
    pub async fn repeat<T, F>(&self, what: &str, mut request: impl FnMut() -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut failures = Failures::new(*self);
        loop {
            match request().await {
                Ok(answer) => return Ok(answer),
                Err(error) => failures.wait_after(what, error).await?,
            }
        }
    }

    /// Waits for an answer, or for the next piece of one; one that takes too long is an error that may pass.
    pub async fn piece<T>(&self, piece: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        match tokio::time::timeout(self.stall, piece).await {
            Ok(piece) => piece,
            Err(_) => {
                Err(Error::Generic { store: "store", source: format!("no answer within {:?}", self.stall).into() })
            }
        }
    }
}

/// The failures of one request so far.
#[derive(Debug)]
pub struct Failures {
    retries: Retries,
    count: u32,
}

impl Failures {
    /// None so far.
    pub fn new(retries: Retries) -> Failures {
        Failures { retries, count: 0 }
    }

    /// Waits before the next attempt, or gives `error` back when there is none.
    pub async fn wait_after(&mut self, what: &str, error: Error) -> Result<(), Error> {
        self.count = self.count.saturating_add(1);
        if !may_pass(&error) || self.count >= self.retries.attempts {
            return Err(error);
        }
        let wait = self.retries.backoff.saturating_mul(2u32.saturating_pow(self.count - 1));
        let (attempt, of) = (self.count, self.retries.attempts);
        tracing::warn!(path = what, attempt, of, ?wait, %error, "a request failed and is repeated");
        tokio::time::sleep(wait).await;
        Ok(())
    }
}

/// All bytes of an answer. One that ends early as if that were all is an error that may pass.
pub async fn whole(answer: GetResult) -> Result<Bytes, Error> {
    let wanted = answer.range.end.saturating_sub(answer.range.start);
    let bytes = answer.bytes().await?;
    if bytes.len() as u64 != wanted {
        return Err(ended_early(bytes.len() as u64, wanted));
    }
    Ok(bytes)
}

/// The error of an answer with another number of bytes than it said.
pub fn ended_early(arrived: u64, wanted: u64) -> Error {
    Error::Generic { store: "body", source: format!("the answer ended after {arrived} of {wanted} bytes").into() }
}

/// What a store refuses for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// There is no such object or, in a listing, no such bucket.
    Missing,
    /// Not with these credentials, or not without any.
    Denied,
}

impl Refusal {
    /// What `error` refuses, if that is what it is about.
    pub fn of(error: &Error) -> Option<Refusal> {
        match (error, status(error)) {
            (Error::NotFound { .. }, _) | (_, Some(404)) => Some(Refusal::Missing),
            (Error::PermissionDenied { .. } | Error::Unauthenticated { .. }, _) | (_, Some(401 | 403)) => {
                Some(Refusal::Denied)
            }
            _ => None,
        }
    }
}

/// The HTTP status that an error of a network store tells of. Those of listings have no variant of their own, and the type
/// that knows the status is private to `object_store`: what is left is its text.
fn status(error: &Error) -> Option<u16> {
    const BEFORE: &str = "status code: ";
    let text = error.to_string();
    let after = text.get(text.find(BEFORE)? + BEFORE.len()..)?;
    after.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// Whether a repetition can help: not when the object is missing, forbidden or named wrongly.
fn may_pass(error: &Error) -> bool {
    let passes = match status(error) {
        // Timeout and too many requests may pass; what else is wrong with a request stays wrong.
        Some(code @ 400..500) => matches!(code, 408 | 429),
        _ => true,
    };
    passes && matches!(error, Error::Generic { .. } | Error::JoinError { .. })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    const QUICK: Retries = Retries { attempts: 3, backoff: Duration::ZERO, stall: Duration::from_millis(20) };

    fn broken() -> Error {
        Error::Generic { store: "test", source: "503".into() }
    }

    /// How often a request is made that fails `times` times, and how it ends.
    async fn tried(times: u32, error: impl Fn() -> Error) -> (u32, Result<(), Error>) {
        let count = Cell::new(0);
        let request = || {
            count.set(count.get() + 1);
            let result = if count.get() <= times { Err(error()) } else { Ok(()) };
            async { result }
        };
        let result = QUICK.run("object", request).await;
        (count.get(), result)
    }

    #[tokio::test]
    async fn what_may_pass_is_repeated_so_many_times() {
        assert!(matches!(tried(0, broken).await, (1, Ok(()))));
        assert!(matches!(tried(2, broken).await, (3, Ok(()))));
        assert!(matches!(tried(3, broken).await, (3, Err(Error::Generic { .. }))));
    }

    #[tokio::test]
    async fn what_will_not_pass_is_asked_once() {
        let missing = || Error::NotFound { path: "object".into(), source: "404".into() };
        assert!(matches!(tried(1, missing).await, (1, Err(Error::NotFound { .. }))));
        let refused = || Error::PermissionDenied { path: "object".into(), source: "403".into() };
        assert!(matches!(tried(1, refused).await, (1, Err(Error::PermissionDenied { .. }))));
    }

    #[tokio::test]
    async fn a_request_without_an_answer_ends() {
        let count = Cell::new(0);
        let request = || {
            count.set(count.get() + 1);
            std::future::pending::<Result<(), Error>>()
        };
        let error = QUICK.run("object", request).await.unwrap_err();
        assert_eq!(count.get(), 3);
        assert!(error.to_string().contains("no answer within 20ms"), "{error}");
    }
}
