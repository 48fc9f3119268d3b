//! A guard before a gRPC service: checks the token before it reads anything of the call, bounds
//! incomplete messages in bytes and time, and stops making answers that are not read.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Frame;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Body as HttpBody, Service, http};
use tonic::server::NamedService;

use super::connection::{OpenRequest, Peer};
use super::in_flight::{Account, GivenUp, InFlight};
use super::tokens::{Denied, Role, Tokens};

/// Head of a gRPC message: a flag and a length.
const HEAD: usize = 5;

/// What a call needs.
pub(super) type Needs = fn(path: &str) -> &'static [Role];

/// A service, guarded.
#[derive(Clone)]
pub(crate) struct Guarded<S> {
    inner: S,
    tokens: Arc<Tokens>,
    needs: Needs,
    in_flight: Arc<InFlight>,
    message_bytes_max: usize,
}

impl<S> Guarded<S> {
    /// Passes calls whose token has every role that `needs` names. On a Unix socket the file
    /// permissions decide. Refuses messages longer than `message_bytes_max`.
    pub(crate) fn new(
        inner: S,
        tokens: Arc<Tokens>,
        needs: Needs,
        in_flight: Arc<InFlight>,
        message_bytes_max: usize,
    ) -> Self {
        Self { inner, tokens, needs, in_flight, message_bytes_max }
    }

    fn check(&self, request: &http::Request<Body>) -> Result<(), Status> {
        if peer(request).is_some_and(|p| p.address().is_none()) {
            return Ok(());
        }
        let authorization = request.headers().get(http::header::AUTHORIZATION);
        let authorization = authorization.and_then(|a| a.to_str().ok());
        for role in (self.needs)(request.uri().path()) {
            self.tokens.check(authorization, *role).map_err(|denied| match denied {
                Denied::Unknown => Status::unauthenticated(denied.to_string()),
                Denied::Role => Status::permission_denied(denied.to_string()),
            })?;
        }
        Ok(())
    }
}

fn peer(request: &http::Request<Body>) -> Option<&Peer> {
    request.extensions().get::<Peer>()
}

impl<S: NamedService> NamedService for Guarded<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Guarded<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let keeps_place = !(self.needs)(request.uri().path()).is_empty();
        let open = peer(&request).map(|p| p.request(keeps_place));
        if let Err(status) = self.check(&request) {
            return Box::pin(async move { Ok(status.into_http()) });
        }
        let connection = peer(&request).map_or(0, Peer::number);
        let (in_flight, most) = (self.in_flight.clone(), self.message_bytes_max);
        let request = request.map(|body| {
            Body::new(Metered {
                inner: body,
                messages: Messages::default(),
                account: Account::new(in_flight, connection),
                message_bytes_max: most,
            })
        });
        let answer = self.inner.call(request);
        Box::pin(async move {
            let response = answer.await?;
            Ok(response.map(|body| match open {
                Some(open) => Body::new(Answer::new(body, open)),
                None => body,
            }))
        })
    }
}

/// Position in a stream of gRPC messages.
#[derive(Debug, Default)]
struct Messages {
    head: [u8; HEAD],
    /// Bytes of the head received.
    seen: usize,
    /// Length of the message that is coming, and how much of it is still to come.
    length: u64,
    left: u64,
    /// Messages started.
    begun: u64,
}

impl Messages {
    fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.left > 0 {
                let used = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                self.left -= used as u64;
                bytes = &bytes[used..];
                continue;
            }
            if self.seen == 0 {
                self.begun += 1;
            }
            self.head[self.seen] = bytes[0];
            self.seen += 1;
            bytes = &bytes[1..];
            if self.seen == HEAD {
                self.seen = 0;
                let [_, length @ ..] = self.head;
                self.length = u64::from(u32::from_be_bytes(length));
                self.left = self.length;
            }
        }
    }

    /// Bytes that the message claims which is not whole.
    fn incomplete(&self) -> Option<usize> {
        match (self.left, self.seen) {
            (0, 0) => None,
            (0, _) => Some(HEAD),
            _ => Some(usize::try_from(self.length).unwrap_or(usize::MAX)),
        }
    }
}

/// A call's messages as they come.
struct Metered {
    inner: Body,
    messages: Messages,
    account: Account,
    message_bytes_max: usize,
}

impl HttpBody for Metered {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        if let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(context) {
            if let Some(Ok(frame)) = &frame
                && let Some(data) = frame.data_ref()
            {
                this.messages.pass(data);
                // What claims more is refused by the service.
                let claimed = this.messages.incomplete().map(|n| n.min(this.message_bytes_max));
                this.account.set(claimed.map(|n| (this.messages.begun, n)), data.len());
            }
            return Poll::Ready(frame);
        }
        let why = ready!(this.account.poll_given_up(context));
        Poll::Ready(Some(Err(match why {
            GivenUp::NoRoom => Status::resource_exhausted(why.to_string()),
            GivenUp::NotWhole => Status::deadline_exceeded(why.to_string()),
        })))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }
}

/// An answer in progress: it is produced as the peer reads.
pub(crate) struct Answer<B> {
    inner: B,
    open: OpenRequest,
}

impl<B> Answer<B> {
    /// To a request that is open until this is dropped.
    pub(crate) fn new(inner: B, open: OpenRequest) -> Self {
        Self { inner, open }
    }
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for Answer<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        ready!(self.open.poll_room(context));
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(context));
        let frame = frame.map(|f| f.map(|f| f.map_data(|data| self.open.given(data))));
        if frame.is_none() || self.inner.is_end_stream() {
            self.open.ended();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn whole_and_incomplete_messages_are_told_apart_in_any_pieces(
            lengths in proptest::collection::vec(0usize..50, 1..8),
            cut in 1usize..30,
            missing in 0usize..60,
        ) {
            let mut stream = Vec::new();
            for n in &lengths {
                stream.push(0);
                stream.extend((*n as u32).to_be_bytes());
                stream.extend(vec![7; *n]);
            }
            let whole = stream.len();
            stream.truncate(whole.saturating_sub(missing));
            let mut messages = Messages::default();
            stream.chunks(cut).for_each(|piece| messages.pass(piece));
            // As the ends of the messages have it.
            let mut at = 0;
            let mut expected = None;
            for n in &lengths {
                let end = at + HEAD + n;
                if at < stream.len() && stream.len() < end {
                    expected = Some(if stream.len() < at + HEAD { HEAD } else { *n });
                }
                at = end;
            }
            prop_assert_eq!(messages.incomplete(), expected);
        }
    }
}
