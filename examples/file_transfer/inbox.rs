//! One transfer, from the offer to its name in the directory.
//!
//! Nothing of a sender's is believed but what has been checked here, and a transfer gets its name
//! when all of it is there.

use std::{path::PathBuf, sync::atomic::Ordering};

use futures::{AsyncRead, AsyncWrite, AsyncWriteExt};
use sha2::{Digest, Sha256};
use tokio::io::AsyncWriteExt as _;

use crate::{
    path::{PathError, SafePath},
    progress::Progress,
    send::quietly,
    source::MAX_ENTRIES,
    staging::{Staging, StagingError},
    tally::{Hash, Tally},
    wire::{self, Frame, Offer, WireError},
};

#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    #[error(transparent)]
    Path(#[from] PathError),
    #[error(transparent)]
    Staging(#[from] StagingError),
    #[error("cannot write {path:?}")]
    Write {
        path: String,
        source: std::io::Error,
    },
    #[error("the sender gave up: {0}")]
    GaveUp(String),
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("{0} was received, which does not belong there")]
    Unexpected(&'static str),
    #[error("{bytes} bytes were offered, and {limit} are the limit (--max-mib)")]
    TooLarge { bytes: u64, limit: u64 },
    #[error("{0} files and directories were offered, and {MAX_ENTRIES} are the limit")]
    TooMany(u64),
    #[error("something else was received than was offered")]
    NotAsOffered,
    #[error("the SHA-256 of {0:?} is another one than the sender's; send it again")]
    Hash(String),
}

/// Where transfers go.
pub struct Inbox {
    pub into: PathBuf,
    /// The most bytes of one.
    pub limit: u64,
}

impl Inbox {
    /// Everything up to `End`. What is there when it fails is removed by the time it returns.
    pub async fn receive(
        &self,
        reader: &mut (impl AsyncRead + Unpin),
        writer: &mut (impl AsyncWrite + Unpin),
        progress: &Progress,
        offered: impl FnOnce(&Offer),
    ) -> Result<(PathBuf, Tally), ReceiveError> {
        let offer = match read(reader).await? {
            Frame::Offer(offer) => offer,
            other => return Err(unexpected(other)),
        };
        let top = self.check(&offer)?;
        let staging = Staging::new(&self.into, top.clone())?;
        offered(&offer);
        progress.total.store(offer.bytes, Ordering::Relaxed);
        let accept = async {
            wire::write(writer, Frame::Accept).await?;
            writer.flush().await
        };
        quietly(accept).await.map_err(WireError::Io)?;

        let mut tally = Tally::default();
        loop {
            if tally.files > offer.files || tally.directories > offer.directories {
                return Err(ReceiveError::NotAsOffered);
            }
            match read(reader).await? {
                Frame::Directory(path) => {
                    let path = SafePath::below(&top, &path)?;
                    staging.directory(&path)?;
                    tally.directory(&path);
                }
                Frame::File { path, length } => {
                    let path = SafePath::below(&top, &path)?;
                    if length > offer.bytes - tally.bytes {
                        return Err(ReceiveError::NotAsOffered);
                    }
                    let file = staging.file(&path)?;
                    let hash = self.file(reader, file, &path, length, progress).await?;
                    tally.file(&path, length, hash);
                }
                Frame::End(hash) => {
                    let counts = (tally.files, tally.directories, tally.bytes);
                    if counts != (offer.files, offer.directories, offer.bytes) {
                        return Err(ReceiveError::NotAsOffered);
                    }
                    if hash != tally.hash() {
                        return Err(ReceiveError::Hash(offer.name));
                    }
                    let path = tokio::task::block_in_place(|| staging.complete())?;
                    return Ok((path, tally));
                }
                other => return Err(unexpected(other)),
            }
        }
    }

    fn check(&self, offer: &Offer) -> Result<SafePath, ReceiveError> {
        if offer.bytes > self.limit {
            return Err(ReceiveError::TooLarge {
                bytes: offer.bytes,
                limit: self.limit,
            });
        }
        let entries = offer.files.saturating_add(offer.directories);
        if entries > MAX_ENTRIES {
            return Err(ReceiveError::TooMany(entries));
        }
        Ok(SafePath::name(&offer.name)?)
    }

    /// A file's bytes, on the disk when this returns.
    async fn file(
        &self,
        reader: &mut (impl AsyncRead + Unpin),
        file: std::fs::File,
        path: &SafePath,
        length: u64,
        progress: &Progress,
    ) -> Result<Hash, ReceiveError> {
        let failed = |source| ReceiveError::Write {
            path: path.as_str().to_owned(),
            source,
        };
        let mut file = tokio::fs::File::from_std(file);
        let mut hash = Sha256::new();
        let mut left = length;
        while left > 0 {
            let data = match read(reader).await? {
                Frame::Data(data) => data,
                other => return Err(unexpected(other)),
            };
            left = left
                .checked_sub(data.len() as u64)
                .ok_or(ReceiveError::NotAsOffered)?;
            hash.update(&data);
            file.write_all(&data).await.map_err(failed)?;
            progress
                .done
                .fetch_add(data.len() as u64, Ordering::Relaxed);
        }
        let hash: Hash = hash.finalize().into();
        match read(reader).await? {
            Frame::Hash(theirs) if theirs == hash => {}
            Frame::Hash(_) => return Err(ReceiveError::Hash(path.as_str().to_owned())),
            other => return Err(unexpected(other)),
        }
        file.sync_all().await.map_err(failed)?;
        Ok(hash)
    }
}

async fn read(reader: &mut (impl AsyncRead + Unpin)) -> Result<Frame, WireError> {
    let reading = async { Ok(wire::read(reader).await) };
    quietly(reading).await.map_err(WireError::Io)?
}

fn unexpected(frame: Frame) -> ReceiveError {
    match frame {
        Frame::Failed(reason) => ReceiveError::GaveUp(reason),
        other => ReceiveError::Unexpected(other.name()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use futures::io::Cursor;

    use super::*;

    fn offer(name: &str, files: u64, directories: u64, bytes: u64) -> Frame {
        Frame::Offer(Offer {
            files,
            directories,
            bytes,
            name: name.into(),
        })
    }

    fn file(path: &str, length: u64) -> Frame {
        let path = path.into();
        Frame::File { path, length }
    }

    fn hash(data: &[u8]) -> Hash {
        Sha256::digest(data).into()
    }

    /// What comes of these frames, in an empty directory that stays so unless they are in order.
    async fn receive(test: &str, frames: Vec<Frame>) -> Result<Tally, ReceiveError> {
        let outer = std::env::temp_dir().join(format!("inbox-{}-{test}", std::process::id()));
        let _ = fs::remove_dir_all(&outer);
        let into = outer.join("into");
        fs::create_dir_all(&into).unwrap();
        let mut bytes = Vec::new();
        for frame in frames {
            wire::write(&mut bytes, frame).await.unwrap();
        }
        let inbox = Inbox {
            into: into.clone(),
            limit: 1000,
        };
        let (mut reader, mut writer) = (Cursor::new(bytes), Vec::new());
        let progress = Progress::default();
        let received = inbox
            .receive(&mut reader, &mut writer, &progress, |_| {})
            .await;
        let within = fs::read_dir(&into).unwrap().count();
        assert_eq!(within, usize::from(received.is_ok()));
        assert_eq!(fs::read_dir(&outer).unwrap().count(), 1);
        fs::remove_dir_all(&outer).unwrap();
        received.map(|(_, tally)| tally)
    }

    fn whole(path: &str, data: &[u8]) -> [Frame; 3] {
        [
            file(path, data.len() as u64),
            Frame::Data(data.to_vec()),
            Frame::Hash(hash(data)),
        ]
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn what_is_in_order_is_kept() {
        let mut frames = vec![offer("f", 1, 0, 3)];
        frames.extend(whole("f", b"123"));
        frames.push(Frame::End(hash(b"123")));
        assert_eq!(receive("order", frames).await.unwrap().bytes, 3);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn paths_that_lead_elsewhere_are_refused() {
        for path in [
            "../out",
            "/out",
            "t/../../out",
            "t\\..\\out",
            "other",
            "t/\0",
            "t//f",
        ] {
            for hostile in [file(path, 3), Frame::Directory(path.into())] {
                let top = Frame::Directory("t".into());
                let frames = vec![offer("t", 1, 2, 3), top, hostile];
                let error = receive("paths", frames).await.unwrap_err();
                assert!(matches!(error, ReceiveError::Path(_)), "{path:?}: {error}");
            }
        }
        for name in ["..", "/", "a/b", ".file-transfer-1-0", ""] {
            let error = receive("name", vec![offer(name, 1, 0, 0)])
                .await
                .unwrap_err();
            assert!(matches!(error, ReceiveError::Path(_)), "{name:?}: {error}");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn whatever_is_not_as_offered_or_breaks_off_leaves_nothing() {
        let [begin, data, end] = whole("f", b"123");
        let all = || {
            vec![
                offer("f", 1, 0, 3),
                begin.clone(),
                data.clone(),
                end.clone(),
            ]
        };
        for cut in 0..=all().len() {
            let error = receive("cut", all()[..cut].to_vec()).await.unwrap_err();
            assert!(
                matches!(error, ReceiveError::Wire(WireError::Ended)),
                "{error}"
            );
        }
        let mut failures = vec![
            (vec![offer("f", 1, 0, 1001)], "--max-mib"),
            (vec![offer("f", MAX_ENTRIES, 1, 0)], "100000"),
            (vec![offer("f", u64::MAX, 2, 0)], "100000"),
            (vec![offer("f", 1, 0, 3), file("f", 4)], "than was offered"),
            (
                vec![offer("f", 1, 0, 3), file("f", u64::MAX)],
                "than was offered",
            ),
            (
                vec![offer("f", 1, 0, 2), file("f", 2), data.clone()],
                "than was offered",
            ),
            (
                vec![offer("f", 1, 0, 3), Frame::End([0; 32])],
                "than was offered",
            ),
            (vec![offer("f", 1, 0, 3), data.clone()], "Data"),
            (vec![Frame::Accept], "Accept"),
        ];
        let instead = [
            (3, Frame::Hash([0; 32]), "SHA-256"),
            (3, data.clone(), "Data"),
            (2, Frame::Failed("enough".into()), "enough"),
            (4, Frame::End([0; 32]), "SHA-256"),
            (4, begin.clone(), "comes twice"),
            (4, Frame::Directory("f/a".into()), "before the directory"),
        ];
        for (at, frame, why) in instead {
            let mut frames = all();
            frames.truncate(at);
            // What it takes for the repeated entry to be reached at all.
            let more = if at == 4 && matches!(frame, Frame::File { .. }) {
                6
            } else {
                3
            };
            frames[0] = offer("f", 1, 0, more);
            frames.push(frame);
            failures.push((frames, why));
        }
        for (frames, why) in failures {
            let error = receive("failures", frames).await.unwrap_err().to_string();
            assert!(error.contains(why), "{error:?}, not {why:?}");
        }
        let mut twice = all();
        twice[0] = offer("f", 2, 0, 6);
        twice.extend(whole("f", b"456"));
        let error = receive("twice", twice).await.unwrap_err().to_string();
        assert!(error.contains("comes twice"), "{error}");
    }
}
