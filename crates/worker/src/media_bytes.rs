//! From a medium's source to its encoded bytes, under this worker's policy.

use crate::media_memory::MediaHold;
use crate::pull::of_peer;
use crate::worker::{MediaPolicy, Shared};
use bytes::Bytes;
use planes::{Destination, Region, RemoteHandle, Source, Transport};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use tracing::{Instrument, debug_span};
use types::{Error, ErrorKind, Result};
use wire::message::{Medium, MediumSource};

/// The encoded bytes of `medium`, which `held` accounts for from then on. Errors name the request
/// field.
pub(crate) async fn fetch(shared: &Shared, medium: &Medium, held: &mut MediaHold) -> Result<Bytes> {
    let fetching = fetch_source(shared, &medium.source, held);
    let fetched = fetching.instrument(debug_span!("encode.fetch")).await;
    fetched.map_err(|failure| {
        let is_ours = matches!(failure.kind, ErrorKind::PeerLost | ErrorKind::Internal);
        if is_ours { failure } else { failure.at(&medium.param) }
    })
}

async fn fetch_source(
    shared: &Shared,
    source: &MediumSource,
    held: &mut MediaHold,
) -> Result<Bytes> {
    match source {
        MediumSource::Inline(bytes) => Ok(bytes.clone()),
        MediumSource::Lent { handle, n_bytes } => {
            shared.media.limits.check_bytes(*n_bytes)?;
            read_lent(&*shared.planes.transport, handle.clone(), *n_bytes).await
        }
        MediumSource::Path(path) => {
            let (path, policy) = (path.clone(), shared.media.clone());
            let read = tokio::task::spawn_blocking(move || read_file(Path::new(&path), &policy));
            read.await.map_err(|_| Error::internal("reading a file broke off"))?
        }
        MediumSource::Url(address) => {
            let bytes = shared.fetcher.fetch(address, &mut |n_bytes| held.grow(n_bytes)).await?;
            held.shrink(bytes.len());
            Ok(bytes)
        }
    }
}

async fn read_lent(transport: &dyn Transport, from: RemoteHandle, n_bytes: usize) -> Result<Bytes> {
    let mut memory = vec![0_u8; n_bytes];
    // SAFETY: the vector is moved beside the region and not touched until it comes back.
    let region = unsafe { Region::new(memory.as_mut_ptr(), n_bytes) };
    let into = Destination { regions: vec![region], keep: Box::new(memory) };
    let source = Source { region_idx: 0, offset: 0 };
    let read = transport.read(from, vec![source], into).await.map_err(of_peer)?;
    let memory = read.keep.downcast::<Vec<u8>>();
    memory.map(|bytes| Bytes::from(*bytes)).map_err(|_| Error::internal("a read lost its memory"))
}

/// Reads a file that lies, with all links resolved, under the allowed folder.
fn read_file(path: &Path, policy: &MediaPolicy) -> Result<Bytes> {
    let Some(allowed) = &policy.allowed_local_path else {
        let message = "local files are not served; start with --allowed-local-media-path";
        return Err(Error::new(ErrorKind::Forbidden, message));
    };
    // One answer for all that is out of reach, so that nobody learns what lies elsewhere.
    let refused = || {
        let message = "the file does not exist or is not under the allowed folder";
        Error::new(ErrorKind::Forbidden, message)
    };
    let allowed = allowed.canonicalize().map_err(|_| refused())?;
    let path = path.canonicalize().map_err(|_| refused())?;
    if !path.starts_with(&allowed) || !path.is_file() {
        return Err(refused());
    }
    let mut bytes = Vec::new();
    let limit = policy.limits.max_bytes as u64;
    let file = File::open(&path).map_err(|_| refused())?;
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|_| refused())?;
    policy.limits.check_bytes(bytes.len())?;
    Ok(bytes.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn policy() -> MediaPolicy {
        MediaPolicy {
            allowed_local_path: None,
            remote: fetch::Policy::default(),
            limits: media::Limits::default(),
            n_decoders: 1,
            n_bytes_held_max: 1 << 20,
        }
    }

    #[test]
    fn only_files_under_the_allowed_folder_are_read() {
        let root = std::env::temp_dir().join(format!("fetch-{}", std::process::id()));
        let allowed = root.join("allowed");
        std::fs::create_dir_all(&allowed).unwrap();
        std::fs::write(allowed.join("in"), b"inside").unwrap();
        std::fs::write(root.join("out"), b"outside").unwrap();
        std::fs::write(allowed.join("large"), vec![0; 101]).unwrap();
        symlink(root.join("out"), allowed.join("link")).unwrap();
        let limits = media::Limits { max_bytes: 100, ..media::Limits::default() };
        let check =
            |folder: Option<&Path>, path: &str, expect: std::result::Result<&[u8], ErrorKind>| {
                let allowed_local_path = folder.map(Path::to_path_buf);
                let policy = MediaPolicy { allowed_local_path, limits, ..policy() };
                let found = read_file(&root.join(path), &policy).map_err(|failure| failure.kind);
                assert_eq!(found.as_deref(), expect.as_ref().copied(), "{path}");
            };
        check(Some(&allowed), "allowed/in", Ok(b"inside"));
        check(Some(&allowed), "allowed/../allowed/in", Ok(b"inside"));
        check(None, "allowed/in", Err(ErrorKind::Forbidden));
        check(Some(&allowed), "out", Err(ErrorKind::Forbidden));
        check(Some(&allowed), "allowed/../out", Err(ErrorKind::Forbidden));
        check(Some(&allowed), "allowed/link", Err(ErrorKind::Forbidden));
        check(Some(&allowed), "allowed/none", Err(ErrorKind::Forbidden));
        check(Some(&allowed), "allowed", Err(ErrorKind::Forbidden));
        check(Some(&allowed), "allowed/large", Err(ErrorKind::TooLarge));
        std::fs::remove_dir_all(&root).unwrap();
    }
}
