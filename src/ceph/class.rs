//! Object classes: methods that an OSD runs on an object.
#![allow(unsafe_code)]

use std::ffi::{CString, c_char, c_int};

use librbd_sys as sys;
use nix::errno::Errno;

use super::call::{Answer, c_string, errno};
use super::ioctx::ReadOp;
use super::{IoCtx, Result};

/// One call of a method.
#[derive(Debug, Clone, Copy)]
pub struct ClassCall<'a> {
    /// Such as `rbd`.
    pub class: &'a str,
    /// Such as `get_size`.
    pub method: &'a str,
    /// As the method decodes it.
    pub input: &'a [u8],
}

/// Where librados stores what a method answers.
#[derive(Debug)]
struct Slot {
    answer: Answer,
    result: c_int,
}

impl IoCtx {
    /// Runs a method on an object.
    pub fn exec(&self, object: &str, class: &str, method: &str, input: &[u8]) -> Result<Vec<u8>> {
        let answers = self.run_methods(object, &[ClassCall { class, method, input }], 0)?;
        // A failure of the only step is one of the operation.
        Ok(answers.into_iter().find_map(std::result::Result::ok).unwrap_or_default())
    }

    /// Runs several methods that only read, in one round trip and as of one moment. The outer error is that of the operation:
    /// no such object, no answer, a class or method that the OSD does not have (`EOPNOTSUPP`); the inner ones are those of
    /// each call.
    pub fn exec_many(
        &self,
        object: &str,
        calls: &[ClassCall<'_>],
    ) -> Result<Vec<std::result::Result<Vec<u8>, Errno>>> {
        if calls.is_empty() {
            return Ok(Vec::new());
        }
        self.run_methods(object, calls, sys::LIBRADOS_OP_FLAG_FAILOK.cast_signed())
    }

    fn run_methods(
        &self,
        object: &str,
        calls: &[ClassCall<'_>],
        flags: c_int,
    ) -> Result<Vec<std::result::Result<Vec<u8>, Errno>>> {
        // Before the operation: it points into them until it is released.
        let mut slots: Vec<Slot> = calls.iter().map(|_| Slot { answer: Answer::new(), result: 0 }).collect();
        let operation = ReadOp::new(self.named(object))?;
        for (call, slot) in calls.iter().zip(&mut slots) {
            let (class, method) = (name(call.class)?, name(call.method)?);
            // SAFETY: the operation is live, both names end with a zero byte, names and input are copied; the slot is there until
            // the operation is released.
            unsafe {
                sys::rados_read_op_exec(
                    operation.0,
                    class.as_ptr(),
                    method.as_ptr(),
                    call.input.as_ptr().cast::<c_char>(),
                    call.input.len(),
                    &raw mut slot.answer.data,
                    &raw mut slot.answer.length,
                    &raw mut slot.result,
                );
            }
            if flags != 0 {
                // SAFETY: the operation is live and has a step to set them for.
                unsafe { sys::rados_read_op_set_flags(operation.0, flags) }
            }
        }
        operation.run(self, object)?;
        let answer = |slot: &Slot| match slot.result {
            0.. => Ok(slot.answer.to_vec()),
            failed => Err(errno(failed.into())),
        };
        Ok(slots.iter().map(answer).collect())
    }
}

fn name(text: &str) -> Result<CString> {
    c_string("rados_read_op_exec", text)
}
