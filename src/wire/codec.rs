//! Decoding of messages. A long one takes milliseconds of its thread (a million numbers: about
//! ten). On a thread of the runtime, which may be the one that polls all sockets, another thread
//! takes over its work in the meantime.

use std::marker::PhantomData;

use bytes::Buf;
use prost::Message;
use tokio::runtime::{Handle, RuntimeFlavor};
use tonic::Status;
use tonic::codec::{self, DecodeBuf};
use tonic_prost::{ProstCodec, ProstDecoder};

/// A message of this many bytes or more is long: other connections would wait for its decoding.
const LONG: usize = 32 << 10;

/// Runs `work`, which decodes a message of `bytes` bytes; a long one as blocking work, so that it
/// holds up no other connection.
pub(crate) fn take_apart<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    let flavor = Handle::try_current().map(|runtime| runtime.runtime_flavor());
    if bytes >= LONG && matches!(flavor, Ok(RuntimeFlavor::MultiThread)) {
        tokio::task::block_in_place(work)
    } else {
        work()
    }
}

/// The codec of the services: protobuf, long messages decoded on a thread that may block.
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = <ProstCodec<T, U> as codec::Codec>::Encoder;
    type Decoder = Decoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::default().encoder()
    }

    fn decoder(&mut self) -> Self::Decoder {
        Decoder(ProstDecoder::default())
    }
}

/// The decoding half of the codec.
pub struct Decoder<U>(ProstDecoder<U>);

impl<U: Message + Default> codec::Decoder for Decoder<U> {
    type Item = U;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<U>, Status> {
        take_apart(buffer.remaining(), || self.0.decode(buffer))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::{Duration, Instant};

    /// Long messages on every thread of the runtime but one that would do: short tasks go on.
    #[test]
    fn a_long_message_holds_up_no_other() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let held = Duration::from_secs(2);
        runtime.block_on(async {
            let long = tokio::spawn(async move {
                take_apart(LONG, || std::thread::sleep(held));
            });
            tokio::time::sleep(Duration::from_millis(50)).await;
            let began = Instant::now();
            tokio::spawn(async {}).await.expect("done");
            assert!(began.elapsed() < held / 2, "it waited for a long message");
            long.await.expect("done");
        });
        // On a runtime with one thread, or without a runtime, it is decoded in place.
        assert_eq!(take_apart(LONG, || 1), 1);
        let alone = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        assert_eq!(alone.block_on(async { take_apart(LONG, || 2) }), 2);
    }
}
