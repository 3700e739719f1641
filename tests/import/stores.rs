//! Stores of other programs, written as those write them: from the formats' description, with nothing of our code.

use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

pub(crate) const MIB: u64 = 1 << 20;
const MASK_BITS: u64 = 1 << 20;
/// What Olah and DingoSpeed write by default is 8 MiB; a smaller one needs smaller fixtures.
const BLOCK_SIZE: u64 = MIB;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

pub(crate) fn git_oid(bytes: &[u8]) -> String {
    let mut hash = Sha1::new();
    hash.update(format!("blob {}\0", bytes.len()));
    hash.update(bytes);
    hex(&hash.finalize())
}

#[derive(Clone, Copy, PartialEq)]
enum Program {
    DingoSpeed1,
    DingoSpeed3,
    Olah,
}

/// The directory of one repo at one commit in a store.
pub(crate) struct BlockStore {
    folder: TempDir,
    program: Program,
    kind: String,
    repo: String,
    commit: String,
}

impl BlockStore {
    /// Block files right where the paths are, answers without a version.
    pub(crate) fn dingospeed_1(kind: &str, repo: &str, commit: &str) -> BlockStore {
        BlockStore::new(Program::DingoSpeed1, kind, repo, commit)
    }

    /// Block files in `blobs/`, links to them.
    pub(crate) fn dingospeed_3(kind: &str, repo: &str, commit: &str) -> BlockStore {
        BlockStore::new(Program::DingoSpeed3, kind, repo, commit)
    }

    /// As DingoSpeed 1, with gzip in the answers.
    pub(crate) fn olah(kind: &str, repo: &str, commit: &str) -> BlockStore {
        BlockStore::new(Program::Olah, kind, repo, commit)
    }

    fn new(program: Program, kind: &str, repo: &str, commit: &str) -> BlockStore {
        let folder = tempfile::tempdir().expect("a temporary directory");
        BlockStore { folder, program, kind: kind.into(), repo: repo.into(), commit: commit.into() }
    }

    pub(crate) fn root(&self) -> &Path {
        self.folder.path()
    }

    fn files(&self) -> PathBuf {
        self.root().join("files").join(&self.kind).join(&self.repo)
    }

    fn api(&self) -> PathBuf {
        self.root().join("api").join(&self.kind).join(&self.repo)
    }

    pub(crate) fn blob(&self, oid: &str) -> PathBuf {
        self.files().join("blobs").join(oid)
    }

    /// A file of which every block was fetched.
    pub(crate) fn file(self, path: &str, bytes: &[u8], lfs: bool) -> BlockStore {
        let all: Vec<u64> = (0..(bytes.len() as u64).div_ceil(BLOCK_SIZE)).collect();
        self.put(path, bytes, lfs, Some(&container(bytes, &all)))
    }

    /// An LFS file of which some blocks were fetched.
    pub(crate) fn partial(self, path: &str, bytes: &[u8], present: &[u64]) -> BlockStore {
        self.put(path, bytes, true, Some(&container(bytes, present)))
    }

    /// An LFS file that was only asked for: its block file is empty.
    pub(crate) fn asked(self, path: &str, bytes: &[u8]) -> BlockStore {
        self.put(path, bytes, true, Some(&[]))
    }

    fn put(self, path: &str, bytes: &[u8], lfs: bool, blob: Option<&[u8]>) -> BlockStore {
        let oid = if lfs { sha256(bytes) } else { git_oid(bytes) };
        let at = self.files().join("resolve").join(&self.commit).join(path);
        if let Some(blob) = blob {
            if self.program == Program::DingoSpeed3 {
                write(&self.blob(&oid), blob);
                std::fs::create_dir_all(at.parent().expect("a parent")).expect("directories");
                let up = "../".repeat(2 + path.matches('/').count());
                std::os::unix::fs::symlink(format!("{up}blobs/{oid}"), &at).expect("a link");
            } else {
                write(&at, blob);
            }
        }
        let pointer = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {}\n", bytes.len());
        let mut entry = json!({ "type": "file", "oid": oid, "size": bytes.len(), "path": path });
        match (lfs, self.program) {
            (true, _) => {
                entry["oid"] = git_oid(pointer.as_bytes()).into();
                entry["lfs"] = json!({ "oid": oid, "size": bytes.len(), "pointerSize": pointer.len() });
            }
            // DingoSpeed writes it for every file.
            (false, Program::DingoSpeed1 | Program::DingoSpeed3) => {
                entry["lfs"] = json!({ "oid": "", "size": 0, "pointerSize": 0 });
            }
            (false, Program::Olah) => {}
        }
        let name = self.api().join("paths-info").join(&self.commit).join(path).join("paths-info_post.json");
        // Olah has unpacked this one, and kept the header that says otherwise.
        let kept = self.answer(json!([entry]).to_string().as_bytes(), json!({ "content-encoding": "gzip" }));
        write(&name, kept.to_string().as_bytes());
        self
    }

    /// The repo's facts, as asked for at a branch; also at the commit, as both programs end up with.
    pub(crate) fn info(self, branch: &str, siblings: &[&str], more: Value) -> BlockStore {
        let siblings: Vec<Value> = siblings.iter().map(|name| json!({ "rfilename": name })).collect();
        let id = self.repo.trim_start_matches("None/");
        let mut info = json!({
            "_id": "621ffdc036468d709f174328", "id": id, "modelId": id, "sha": self.commit, "disabled": false,
            "downloads": 3, "likes": 1, "tags": ["test"], "lastModified": "2024-02-19T10:57:45.000Z",
            "createdAt": "2022-03-02T23:29:04.000Z", "siblings": siblings,
        });
        for (name, value) in more.as_object().expect("an object") {
            info[name] = value.clone();
        }
        let body = info.to_string();
        let kept = if self.program == Program::Olah {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            gzip.write_all(body.as_bytes()).expect("gzip");
            self.answer(&gzip.finish().expect("gzip"), json!({ "content-encoding": "gzip" }))
        } else {
            self.answer(body.as_bytes(), json!({}))
        };
        for revision in [branch, &self.commit] {
            write(&self.api().join("revision").join(revision).join("meta_get.json"), kept.to_string().as_bytes());
        }
        self
    }

    fn answer(&self, body: &[u8], more: Value) -> Value {
        let mut headers = json!({ "content-type": "application/json; charset=utf-8" });
        let mut kept = json!({ "status_code": 200, "content": hex(body) });
        match self.program {
            Program::DingoSpeed3 => kept["version"] = 1.into(),
            Program::Olah => headers.as_object_mut().expect("headers").extend(more.as_object().cloned().unwrap_or_default()),
            Program::DingoSpeed1 => {}
        }
        kept["headers"] = headers;
        kept
    }
}

/// A block file, "OLAH" version 8. The blocks that are not there read as zeros.
fn container(bytes: &[u8], present: &[u64]) -> Vec<u8> {
    let mut file = b"OLAH".to_vec();
    for field in [8, BLOCK_SIZE, bytes.len() as u64, MASK_BITS] {
        file.extend_from_slice(&field.to_le_bytes());
    }
    let mut mask = vec![0u8; (MASK_BITS / 8) as usize];
    present.iter().for_each(|index| mask[(index / 8) as usize] |= 1 << (index % 8));
    file.extend_from_slice(&mask);
    let mut payload = vec![0; bytes.len()];
    for index in present {
        let (start, end) = ((index * BLOCK_SIZE) as usize, ((index + 1) * BLOCK_SIZE).min(bytes.len() as u64) as usize);
        payload[start..end].copy_from_slice(&bytes[start..end]);
    }
    file.extend_from_slice(&payload);
    file
}

fn write(path: &Path, bytes: &[u8]) {
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
    std::fs::write(path, bytes).expect("a file");
}
