//! Object classes: methods that an OSD runs on an object.
#![allow(unsafe_code)]

use std::collections::VecDeque;
use std::ffi::{CString, c_char, c_int};

use librbd_sys as sys;
use nix::errno::Errno;

use super::call::{Answer, c_string, errno};
use super::ioctx::{ReadOp, UnderWay};
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

/// What several calls were answered.
pub type Answers = Vec<std::result::Result<Vec<u8>, Errno>>;

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
    pub fn exec_many(&self, object: &str, calls: &[ClassCall<'_>]) -> Result<Answers> {
        if calls.is_empty() {
            return Ok(Vec::new());
        }
        self.run_methods(object, calls, FAIL_OK)
    }

    /// The same on many objects, `at_once` of them at a time. The answers come in the order of the objects. After one that is not answered in
    /// time no further object is asked: the cluster is away, and they all would be waited for.
    pub fn exec_on_each(
        &self,
        objects: impl IntoIterator<Item = String>,
        calls: &[ClassCall<'_>],
        at_once: usize,
        mut answer: impl FnMut(Result<Answers>),
    ) {
        let mut asked: VecDeque<Result<Asked>> = VecDeque::with_capacity(at_once);
        let mut away = None;
        let mut take = |asked: &mut VecDeque<Result<Asked>>| {
            let oldest = asked.pop_front()?;
            let answers = oldest.and_then(|asked| asked.answers(self));
            let away = answers.as_ref().err().filter(|e| e.errno == Errno::ETIMEDOUT).cloned();
            answer(answers);
            away
        };
        for object in objects {
            if asked.len() >= at_once {
                let now = take(&mut asked);
                away = away.or(now);
            }
            asked.push_back(match &away {
                Some(e) => Err(e.clone()),
                None => Asked::begin(self, object, calls),
            });
        }
        while !asked.is_empty() {
            take(&mut asked);
        }
    }

    fn run_methods(&self, object: &str, calls: &[ClassCall<'_>], flags: c_int) -> Result<Answers> {
        let (slots, operation) = self.prepare(object, calls, flags)?;
        operation.run(self, object)?;
        Ok(answers(&slots))
    }

    /// The operation points into the slots until it is released.
    fn prepare(&self, object: &str, calls: &[ClassCall<'_>], flags: c_int) -> Result<(Vec<Slot>, ReadOp)> {
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
        Ok((slots, operation))
    }
}

/// A step that fails does not end the operation.
const FAIL_OK: c_int = sys::LIBRADOS_OP_FLAG_FAILOK.cast_signed();

/// An object that was asked, and has not answered yet.
#[derive(Debug)]
struct Asked {
    // Before the slots that it points into: fields are dropped in this order.
    operation: UnderWay,
    slots: Vec<Slot>,
    object: String,
}

impl Asked {
    fn begin(io: &IoCtx, object: String, calls: &[ClassCall<'_>]) -> Result<Self> {
        let (slots, operation) = io.prepare(&object, calls, FAIL_OK)?;
        Ok(Self { operation: operation.begin(io, &object)?, slots, object })
    }

    fn answers(self, io: &IoCtx) -> Result<Answers> {
        let Self { operation, slots, object } = self;
        operation.end(io, &object)?;
        Ok(answers(&slots))
    }
}

/// What each call of an operation that has ended was answered.
fn answers(slots: &[Slot]) -> Answers {
    let answer = |slot: &Slot| match slot.result {
        0.. => Ok(slot.answer.to_vec()),
        failed => Err(errno(failed.into())),
    };
    slots.iter().map(answer).collect()
}

fn name(text: &str) -> Result<CString> {
    c_string("rados_read_op_exec", text)
}
