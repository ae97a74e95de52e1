//! A folder as a build's context: an archive of what `.dockerignore` leaves, written while it is read.

use std::fs::{self, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use decnet_plan::step::Dockerfile;
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;

use super::ignore::Ignore;
use super::{BROUGHT, Body, CHUNK};
use crate::EngineError;

/// Bytes that a Dockerfile or a `.dockerignore` may have.
const MAX_TEXT: u64 = 4 << 20;
/// Chunks that wait for the engine.
const QUEUE: usize = 4;

/// The archive of a folder, and the Dockerfile's path in it.
pub(super) async fn of_folder(
    image: &str,
    folder: &str,
    dockerfile: &Dockerfile,
) -> Result<(Body, String), EngineError> {
    let (root, dockerfile) = (PathBuf::from(folder), dockerfile.clone());
    let prepared = tokio::task::spawn_blocking(move || Context::new(root, &dockerfile)).await;
    let context = match prepared {
        Ok(Ok(context)) => context,
        Ok(Err((path, source))) => {
            return Err(EngineError::ReadContext {
                image: image.to_owned(),
                path: path.display().to_string(),
                source,
            });
        }
        Err(lost) => {
            return Err(EngineError::ReadContext {
                image: image.to_owned(),
                path: folder.to_owned(),
                source: io::Error::other(lost),
            });
        }
    };
    let dockerfile = context.dockerfile.clone();
    let (sender, receiver) = mpsc::channel(QUEUE);
    // Ends when the archive is complete, or when nobody reads it any more.
    tokio::task::spawn_blocking(move || {
        let pipe = Pipe {
            sender: sender.clone(),
            waiting: Vec::with_capacity(CHUNK),
        };
        if let Err(error) = context.write(pipe) {
            let _ = sender.blocking_send(Err(error));
        }
    });
    let body = stream::unfold(receiver, |mut receiver| async move {
        receiver.recv().await.map(|chunk| (chunk, receiver))
    });
    Ok((body.boxed(), dockerfile))
}

/// An archive's first entry, without its end.
pub(super) fn one_file(name: &str, text: &str) -> io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_data(&mut file_header(text.len() as u64, 0o644), name, text.as_bytes())?;
    Ok(archive.get_ref().clone())
}

#[derive(Debug)]
struct Context {
    root: PathBuf,
    ignore: Ignore,
    /// In the archive.
    dockerfile: String,
    /// A Dockerfile's text that the folder does not have.
    brought: Option<String>,
}

type Unread = (PathBuf, io::Error);

impl Context {
    fn new(root: PathBuf, dockerfile: &Dockerfile) -> Result<Self, Unread> {
        let (dockerfile, brought) = match dockerfile {
            Dockerfile::Inline { text } => (BROUGHT.to_owned(), Some(text.clone())),
            Dockerfile::Path { path } => match inside(&root, path) {
                Some(inner) => (inner, None),
                None => {
                    let path = root.join(path);
                    (BROUGHT.to_owned(), Some(read_text(&path)?))
                }
            },
        };
        // A Dockerfile's own list goes before that of the folder.
        let own = root.join(format!("{dockerfile}.dockerignore"));
        let list = match read_text(&own) {
            Err((_, error)) if error.kind() == io::ErrorKind::NotFound => {
                match read_text(&root.join(".dockerignore")) {
                    Err((_, error)) if error.kind() == io::ErrorKind::NotFound => String::new(),
                    other => other?,
                }
            }
            other => other?,
        };
        // The builder needs these, whatever the list says.
        let ignore = Ignore::new(&list, &[".dockerignore", &dockerfile]);
        match fs::metadata(&root) {
            Ok(found) if found.is_dir() => {}
            Ok(_) => return Err((root, io::ErrorKind::NotADirectory.into())),
            Err(error) => return Err((root, error)),
        }
        Ok(Self {
            root,
            ignore,
            dockerfile,
            brought,
        })
    }

    fn write(&self, pipe: Pipe) -> io::Result<()> {
        let mut archive = tar::Builder::new(pipe);
        if let Some(text) = &self.brought {
            archive.append_data(
                &mut file_header(text.len() as u64, 0o644),
                BROUGHT,
                text.as_bytes(),
            )?;
        }
        self.folder(&mut archive, Path::new(""))?;
        archive.into_inner()?.flush()
    }

    /// In the order of names, so that the same folder gives the same archive.
    fn folder(&self, archive: &mut tar::Builder<Pipe>, relative: &Path) -> io::Result<()> {
        let mut entries = fs::read_dir(self.root.join(relative))?.collect::<io::Result<Vec<_>>>()?;
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            let path = relative.join(entry.file_name());
            let found = entry.metadata()?;
            let ignored = self.ignore.leaves_out(&path);
            if found.is_dir() {
                if !ignored {
                    let mut header = header_of(&found, 0);
                    archive.append_data(&mut header, &path, io::empty())?;
                }
                if !ignored || self.ignore.may_take_back_in(&path) {
                    self.folder(archive, &path)?;
                }
            } else if !ignored {
                self.entry(archive, &path, &found)?;
            }
        }
        Ok(())
    }

    /// Sockets, pipes and devices are nothing to build from.
    fn entry(&self, archive: &mut tar::Builder<Pipe>, path: &Path, found: &Metadata) -> io::Result<()> {
        if found.is_symlink() {
            let target = fs::read_link(self.root.join(path))?;
            return archive.append_link(&mut header_of(found, 0), path, target);
        }
        if !found.is_file() {
            return Ok(());
        }
        let file = fs::File::open(self.root.join(path))?;
        // One that grows meanwhile is cut; one that shrinks is filled, as the header has been written.
        let content = io::Read::chain(file, io::repeat(0));
        let content = io::Read::take(content, found.len());
        archive.append_data(&mut header_of(found, found.len()), path, content)
    }
}

/// The path relative to the folder, or None when it leads out of it.
fn inside(root: &Path, path: &str) -> Option<String> {
    let path = Path::new(path);
    let relative = if path.is_absolute() {
        path.strip_prefix(root).ok()?
    } else {
        path
    };
    let mut parts: Vec<&str> = Vec::new();
    for component in relative.components() {
        match component {
            Component::Normal(part) => parts.push(part.to_str()?),
            Component::CurDir => {}
            Component::ParentDir => {
                parts.pop()?;
            }
            Component::RootDir | Component::Prefix(_) => return None,
        }
    }
    Some(parts.join("/"))
}

fn read_text(path: &Path) -> Result<String, Unread> {
    let read = || {
        let mut text = String::new();
        let file = fs::File::open(path)?;
        let read = io::Read::read_to_string(&mut io::Read::take(file, MAX_TEXT + 1), &mut text)?;
        if read as u64 > MAX_TEXT {
            return Err(io::Error::other("it is larger than 4 MiB"));
        }
        Ok(text)
    };
    read().map_err(|error| (path.to_owned(), error))
}

/// Everything belongs to root, as for every Docker client: owners of this machine mean nothing in the image.
fn header_of(found: &Metadata, size: u64) -> tar::Header {
    let mut header = file_header(size, found.permissions().mode() & 0o7777);
    if found.is_dir() {
        header.set_entry_type(tar::EntryType::Directory);
    } else if found.is_symlink() {
        header.set_entry_type(tar::EntryType::Symlink);
    }
    header.set_mtime(u64::try_from(found.mtime()).unwrap_or_default());
    header
}

fn file_header(size: u64, mode: u32) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Regular);
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// Writes in one thread what is sent in another.
struct Pipe {
    sender: mpsc::Sender<io::Result<Bytes>>,
    waiting: Vec<u8>,
}

impl Write for Pipe {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.waiting.extend_from_slice(bytes);
        if self.waiting.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let chunk = Bytes::from(std::mem::replace(&mut self.waiting, Vec::with_capacity(CHUNK)));
        let closed = |_| io::Error::from(io::ErrorKind::BrokenPipe);
        self.sender.blocking_send(Ok(chunk)).map_err(closed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    async fn archived(folder: &Path, dockerfile: Dockerfile) -> (BTreeMap<String, String>, String) {
        let (body, name) = of_folder("i", folder.to_str().unwrap(), &dockerfile)
            .await
            .unwrap();
        let bytes: Vec<Bytes> = futures_util::TryStreamExt::try_collect(body).await.unwrap();
        let bytes = bytes.concat();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut files = BTreeMap::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            assert_eq!(entry.header().uid().unwrap(), 0);
            let path = entry.path().unwrap().display().to_string();
            let mut text = String::new();
            io::Read::read_to_string(&mut entry, &mut text).unwrap();
            files.insert(path.trim_end_matches('/').to_owned(), text);
        }
        (files, name)
    }

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    #[tokio::test]
    async fn what_the_list_leaves_is_sent_and_what_the_builder_needs_always_is() {
        let folder = folder(&[
            ("Dockerfile", "FROM scratch"),
            (".dockerignore", "*\n!src\nsrc/*.o\n"),
            ("src/a.c", "a"),
            ("src/a.o", "o"),
            ("secret", "s"),
        ]);
        std::os::unix::fs::symlink("a.c", folder.path().join("src/link")).unwrap();
        let path = Dockerfile::Path {
            path: "Dockerfile".to_owned(),
        };
        let (files, name) = archived(folder.path(), path).await;
        let names: Vec<_> = files.keys().map(String::as_str).collect();
        assert_eq!(
            names,
            [".dockerignore", "Dockerfile", "src", "src/a.c", "src/link"]
        );
        assert_eq!(name, "Dockerfile");
    }

    #[tokio::test]
    async fn a_dockerfile_from_elsewhere_comes_along() {
        let (folder, other) = (folder(&[("a", "a")]), folder(&[("D", "FROM other")]));
        let inline = Dockerfile::Inline {
            text: "FROM inline".to_owned(),
        };
        let (files, name) = archived(folder.path(), inline).await;
        assert_eq!(files[&name], "FROM inline");
        let outside = Dockerfile::Path {
            path: other.path().join("D").to_str().unwrap().to_owned(),
        };
        let (files, name) = archived(folder.path(), outside).await;
        assert_eq!(files[&name], "FROM other");
    }

    #[tokio::test]
    async fn a_folder_larger_than_the_queue_arrives_whole() {
        let text = "x".repeat(CHUNK * (QUEUE + 3));
        let folder = folder(&[("Dockerfile", "FROM scratch"), ("big", &text)]);
        let path = Dockerfile::Path {
            path: "./Dockerfile".to_owned(),
        };
        let (files, _) = archived(folder.path(), path).await;
        assert_eq!(files["big"], text);
    }

    #[tokio::test]
    async fn a_folder_that_is_not_there_is_named() {
        let path = Dockerfile::Path {
            path: "Dockerfile".to_owned(),
        };
        let Err(error) = of_folder("i", "/nonexistent/context", &path).await else {
            panic!("it is there")
        };
        assert!(error.to_string().contains("/nonexistent/context"), "{error}");
    }
}
