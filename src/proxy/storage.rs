//! The storage behind pingora's cache: every object is a hit, its body read from blocks as they come.

use super::object_meta;
use crate::mirror::{FileInfo, Reader};
use async_trait::async_trait;
use bytes::Bytes;
use pingora_cache::CacheMeta;
use pingora_cache::key::CacheKey;
use pingora_cache::storage::{HandleHit, HitHandler, MissHandler, PurgeOutcome, PurgeTarget, PurgeType, Storage};
use pingora_cache::trace::SpanHandle;
use pingora_core::{Error, ErrorType, Result};
use std::any::Any;
use std::sync::{Arc, Mutex};

/// The one storage; what it serves travels in each key's extensions.
pub(super) static OBJECTS: Objects = Objects;

pub(super) struct Objects;

/// A reader on its way from the request to the lookup. The map it travels in wants `Clone`.
#[derive(Clone)]
pub(super) struct Handle {
    reader: Arc<Mutex<Option<Reader>>>,
    file: FileInfo,
}

impl Handle {
    /// `reader` is `None` where only the head goes out.
    pub(super) fn new(reader: Option<Reader>, file: &FileInfo) -> Handle {
        Handle { reader: Arc::new(Mutex::new(reader)), file: file.clone() }
    }

    fn take(&self) -> Option<Reader> {
        self.reader.lock().unwrap_or_else(|e| e.into_inner()).take()
    }
}

struct Hit {
    /// `None` where only the head goes out.
    reader: Option<Reader>,
}

fn unsupported<T>(what: &'static str) -> Result<T> {
    Error::e_explain(ErrorType::InternalError, what)
}

#[async_trait]
impl Storage for Objects {
    async fn lookup(&'static self, key: &CacheKey, _trace: &SpanHandle) -> Result<Option<(CacheMeta, HitHandler)>> {
        let Some(handle) = key.extensions.get::<Handle>() else { return Ok(None) };
        Ok(Some((object_meta(&handle.file)?, Box::new(Hit { reader: handle.take() }))))
    }

    async fn get_miss_handler(&'static self, _: &CacheKey, _: &CacheMeta, _: &SpanHandle) -> Result<MissHandler> {
        unsupported("objects are filled by flights, not by misses")
    }

    async fn purge(&'static self, _: PurgeTarget<'_>, _: PurgeType, _: &SpanHandle) -> Result<PurgeOutcome> {
        Ok(PurgeOutcome::NotFound)
    }

    async fn update_meta(&'static self, _: &CacheKey, _: &CacheMeta, _: &SpanHandle) -> Result<bool> {
        Ok(false)
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync + 'static) {
        self
    }
}

#[async_trait]
impl HandleHit for Hit {
    async fn read_body(&mut self) -> Result<Option<Bytes>> {
        let Some(reader) = self.reader.as_mut() else { return unsupported("a body was not meant to be sent") };
        // An error makes pingora cut the connection: a short body is never ended cleanly.
        reader.next().await.map_err(|e| Error::explain(ErrorType::ReadError, e.to_string()))
    }

    async fn finish(self: Box<Self>, _: &'static (dyn Storage + Sync), _: &CacheKey, _: &SpanHandle) -> Result<()> {
        Ok(())
    }

    fn can_seek(&self) -> bool {
        true
    }

    fn seek(&mut self, start: usize, end: Option<usize>) -> Result<()> {
        let Some(reader) = self.reader.as_mut() else { return unsupported("a body was not meant to be sent") };
        let end = end.map_or(reader.size(), |end| end as u64);
        reader.seek(start as u64..end);
        Ok(())
    }

    fn as_any(&self) -> &(dyn Any + Send + Sync) {
        self
    }

    fn as_any_mut(&mut self) -> &mut (dyn Any + Send + Sync) {
        self
    }
}
