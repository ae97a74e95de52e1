//! Files that are copied into a container before its first start: inline configs and secrets.

use bollard::query_parameters::UploadToContainerOptions;
use bytes::Bytes;
use decnet_plan::step::FileSpec;

use crate::engine::CHANGE;
use crate::{Engine, EngineError};

impl Engine {
    pub(super) async fn copy_files(&self, container: &str, files: &[FileSpec]) -> Result<(), EngineError> {
        if files.is_empty() {
            return Ok(());
        }
        let archive = archive(files).map_err(|source| EngineError::PackFiles {
            container: container.to_owned(),
            source,
        })?;
        // Without `copyUIDGID` the engine takes owners from the archive; with it, from the container's user.
        let options = UploadToContainerOptions {
            path: "/".to_owned(),
            no_overwrite_dir_non_dir: Some("true".to_owned()),
            copy_uidgid: None,
        };
        let body = bollard::body_full(Bytes::from(archive));
        let call = self.docker.upload_to_container(container, Some(options), body);
        self.call(CHANGE, || format!("copy files into container {container}"), call)
            .await
    }
}

fn archive(files: &[FileSpec]) -> std::io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    for file in files {
        let mut header = tar::Header::new_gnu();
        let content = file.content.0.as_bytes();
        header.set_size(content.len() as u64);
        header.set_mode(file.mode);
        header.set_uid(file.uid.into());
        header.set_gid(file.gid.into());
        // No time: two archives of the same files are the same.
        header.set_mtime(0);
        archive.append_data(&mut header, file.path.trim_start_matches('/'), content)?;
    }
    archive.into_inner()
}

#[cfg(test)]
mod tests {
    use super::*;
    use decnet_plan::step::FileContent;

    #[test]
    fn the_archive_says_what_is_where_and_whose() {
        let file = FileSpec {
            path: "/run/secrets/key".to_owned(),
            content: FileContent("hidden".to_owned()),
            uid: 5,
            gid: 6,
            mode: 0o440,
        };
        let bytes = archive(&[file]).unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let entry = archive.entries().unwrap().next().unwrap().unwrap();
        let header = entry.header();
        assert_eq!(entry.path().unwrap().to_str(), Some("run/secrets/key"));
        assert_eq!(
            (
                header.uid().unwrap(),
                header.gid().unwrap(),
                header.mode().unwrap(),
                header.size().unwrap()
            ),
            (5, 6, 0o440, 6)
        );
    }

    #[test]
    fn a_path_that_climbs_out_is_refused() {
        let file = FileSpec {
            path: "/../etc/passwd".to_owned(),
            content: FileContent::default(),
            uid: 0,
            gid: 0,
            mode: 0o600,
        };
        assert!(archive(&[file]).is_err());
    }
}
