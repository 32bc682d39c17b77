//! A pool, or a namespace in it: where objects and images are.
#![allow(unsafe_code)]

use std::ffi::c_char;
use std::ptr;
use std::sync::Arc;

use librbd_sys as sys;
use nix::errno::Errno;

use super::call::{c_string, check};
use super::{Cluster, Result};
use crate::model::error::CallError;

/// A pool as one client sees it. Clones are the same.
///
/// It stands for the pool's id: once the pool is removed, another one of the same name needs another `IoCtx`. A write that a full
/// pool has no room for fails at once (ENOSPC, EDQUOT) instead of waiting for room, and what makes room is let through.
#[derive(Debug, Clone)]
pub struct IoCtx(Arc<Pool>);

// The handle before the cluster: fields are dropped in this order.
#[derive(Debug)]
struct Pool {
    handle: Handle,
    name: String,
    id: i64,
    namespace: Option<String>,
    cluster: Cluster,
}

/// An owned `rados_ioctx_t`.
#[derive(Debug)]
struct Handle(sys::rados_ioctx_t);

// SAFETY: a `rados_ioctx_t` belongs to no thread.
unsafe impl Send for Handle {}
// SAFETY: librados does its own locking; only setting a namespace, a locator or a snapshot is not safe while others use it, and the
// namespace is set before anybody else has the handle, the others never.
unsafe impl Sync for Handle {}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: ours, and images that were opened in it keep it, so none is left.
        unsafe { sys::rados_ioctx_destroy(self.0) }
    }
}

impl IoCtx {
    pub(super) fn new(cluster: &Cluster, pool: &str, namespace: Option<&str>) -> Result<Self> {
        let call = "rados_ioctx_create";
        let namespace = namespace.filter(|name| !name.is_empty());
        let name = c_string(call, pool)?;
        let mut handle = ptr::null_mut();
        // SAFETY: the cluster is live, the name ends with a zero byte, and one handle is stored.
        let rc = unsafe { sys::rados_ioctx_create(cluster.raw(), name.as_ptr(), &raw mut handle) };
        check(call, format_args!("pool {pool}"), rc.into())?;
        let handle = Handle(handle);
        if let Some(namespace) = namespace {
            let namespace = c_string("rados_ioctx_set_namespace", namespace)?;
            // SAFETY: the handle is live and nobody else's, and the name ends with a zero byte.
            unsafe { sys::rados_ioctx_set_namespace(handle.0, namespace.as_ptr()) }
        }
        // SAFETY: the handle is live and nobody else's.
        unsafe { sys::rados_set_pool_full_try(handle.0) }
        // SAFETY: the handle is live.
        let id = unsafe { sys::rados_ioctx_get_id(handle.0) };
        Ok(Self(Arc::new(Pool {
            handle,
            name: pool.to_owned(),
            id,
            namespace: namespace.map(str::to_owned),
            cluster: cluster.clone(),
        })))
    }

    /// The client.
    pub fn cluster(&self) -> &Cluster {
        &self.0.cluster
    }

    /// The pool's name.
    pub fn pool(&self) -> &str {
        &self.0.name
    }

    /// The pool's id.
    pub fn pool_id(&self) -> i64 {
        self.0.id
    }

    /// The namespace in it; nothing is the default one.
    pub fn namespace(&self) -> Option<&str> {
        self.0.namespace.as_deref()
    }

    /// The first bytes of an object, `most` at most.
    pub fn read(&self, object: &str, most: usize) -> Result<Vec<u8>> {
        let call = "rados_read";
        let oid = c_string(call, object)?;
        let mut bytes = vec![0_u8; most];
        // SAFETY: the handle is live, the name ends with a zero byte, and `most` bytes may be written.
        let rc = unsafe {
            sys::rados_read(self.raw(), oid.as_ptr(), bytes.as_mut_ptr().cast::<c_char>(), most, 0)
        };
        let read = check(call, self.named(object), rc.into())?;
        bytes.truncate(usize::try_from(read).unwrap_or(most));
        Ok(bytes)
    }

    /// Makes an empty object; one that exists already is left as it is.
    pub fn create_object(&self, object: &str) -> Result<()> {
        let operation = WriteOp::new(self.named(object))?;
        // SAFETY: the operation is live; the category is unused.
        unsafe {
            sys::rados_write_op_create(
                operation.0,
                sys::LIBRADOS_CREATE_IDEMPOTENT.cast_signed(),
                ptr::null(),
            )
        }
        operation.run(self, object)
    }

    /// Removes an object; one that is missing is success.
    pub fn remove_object(&self, object: &str) -> Result<()> {
        let call = "rados_remove";
        let oid = c_string(call, object)?;
        // SAFETY: the handle is live, and the name ends with a zero byte.
        let rc = unsafe { sys::rados_remove(self.raw(), oid.as_ptr()) };
        match check(call, self.named(object), rc.into()) {
            Err(e) if e.errno == Errno::ENOENT => Ok(()),
            done => done.map(drop),
        }
    }

    /// The handle, for calls only: this pool closes it.
    pub(super) fn raw(&self) -> sys::rados_ioctx_t {
        self.0.handle.0
    }

    /// An object or image as errors name it: `pool/name` or `pool/namespace/name`.
    pub(super) fn named(&self, name: &str) -> String {
        format!("{}/{name}", self.place())
    }

    /// The pool as errors name it: `pool` or `pool/namespace`.
    pub(super) fn place(&self) -> String {
        match &self.0.namespace {
            Some(namespace) => format!("{}/{namespace}", self.0.name),
            None => self.0.name.clone(),
        }
    }
}

/// Several changes of one object that happen all or not at all.
#[derive(Debug)]
pub(super) struct WriteOp(pub(super) sys::rados_write_op_t);

impl WriteOp {
    pub(super) fn new(object: String) -> Result<Self> {
        // SAFETY: takes nothing.
        let operation = unsafe { sys::rados_create_write_op() };
        if operation.is_null() {
            return Err(CallError::new("rados_create_write_op", object, Errno::ENOMEM));
        }
        Ok(Self(operation))
    }

    pub(super) fn run(self, io: &IoCtx, object: &str) -> Result<()> {
        let call = "rados_write_op_operate2";
        let oid = c_string(call, object)?;
        // SAFETY: handle and operation are live, the name ends with a zero byte; no time means now.
        let rc = unsafe { sys::rados_write_op_operate2(self.0, io.raw(), oid.as_ptr(), ptr::null_mut(), 0) };
        check(call, io.named(object), rc.into()).map(drop)
    }
}

impl Drop for WriteOp {
    fn drop(&mut self) {
        // SAFETY: ours, and released nowhere else.
        unsafe { sys::rados_release_write_op(self.0) }
    }
}

/// Several questions to one object, answered as of one moment.
#[derive(Debug)]
pub(super) struct ReadOp(pub(super) sys::rados_read_op_t);

impl ReadOp {
    pub(super) fn new(object: String) -> Result<Self> {
        // SAFETY: takes nothing.
        let operation = unsafe { sys::rados_create_read_op() };
        if operation.is_null() {
            return Err(CallError::new("rados_create_read_op", object, Errno::ENOMEM));
        }
        Ok(Self(operation))
    }

    /// Where the questions let librados store their answers must be there until this returns.
    pub(super) fn run(self, io: &IoCtx, object: &str) -> Result<()> {
        let call = "rados_read_op_operate";
        let oid = c_string(call, object)?;
        // SAFETY: handle and operation are live, and the name ends with a zero byte.
        let rc = unsafe { sys::rados_read_op_operate(self.0, io.raw(), oid.as_ptr(), 0) };
        check(call, io.named(object), rc.into()).map(drop)
    }

    /// Sends it, and does not wait for the answer. Where the questions let librados store their answers must be there until what this
    /// returns is gone.
    pub(super) fn begin(self, io: &IoCtx, object: &str) -> Result<UnderWay> {
        let call = "rados_aio_read_op_operate";
        let oid = c_string(call, object)?;
        let mut completion = ptr::null_mut();
        // SAFETY: one handle is stored; there is nothing to call at the end.
        let rc = unsafe { sys::rados_aio_create_completion2(ptr::null_mut(), None, &raw mut completion) };
        check("rados_aio_create_completion2", io.named(object), rc.into())?;
        // SAFETY: handle, operation and completion are live, and the name ends with a zero byte.
        let rc = unsafe { sys::rados_aio_read_op_operate(self.0, io.raw(), completion, oid.as_ptr(), 0) };
        if let Err(e) = check(call, io.named(object), rc.into()) {
            // SAFETY: ours, and nothing is under way that would end it.
            unsafe { sys::rados_aio_release(completion) }
            return Err(e);
        }
        Ok(UnderWay { completion, _operation: self })
    }
}

/// Questions that were sent. Whoever drops them waits for their answer, which is not later than the timeout of the cluster.
#[derive(Debug)]
pub(super) struct UnderWay {
    completion: sys::rados_completion_t,
    _operation: ReadOp,
}

impl UnderWay {
    /// Waits for the answer.
    pub(super) fn end(self, io: &IoCtx, object: &str) -> Result<()> {
        self.wait();
        // SAFETY: the completion is live, and what it is for has ended.
        let rc = unsafe { sys::rados_aio_get_return_value(self.completion) };
        check("rados_aio_read_op_operate", io.named(object), rc.into()).map(drop)
    }

    fn wait(&self) {
        // SAFETY: the completion is live.
        unsafe { sys::rados_aio_wait_for_complete(self.completion) };
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.wait();
        // SAFETY: ours, released nowhere else, and what it is for has ended.
        unsafe { sys::rados_aio_release(self.completion) }
    }
}

impl Drop for ReadOp {
    fn drop(&mut self) {
        // SAFETY: ours, and released nowhere else.
        unsafe { sys::rados_release_read_op(self.0) }
    }
}
