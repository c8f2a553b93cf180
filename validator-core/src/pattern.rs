//! Placeholder until the pattern branch is merged.
#![allow(missing_docs, reason = "x")]
use alloc::boxed::Box;
#[derive(Default)]
pub struct Limits;
#[derive(Debug)]
pub struct PathPattern;
impl PathPattern {
    pub fn new(_: &str, _: &Limits) -> Result<Self, PatternError> {
        Err(PatternError)
    }
    pub fn as_str(&self) -> &str {
        ""
    }
    pub fn group_names(&self) -> &[Box<str>] {
        &[]
    }
    pub fn captures<'s>(&self, _: &[u8], _: &'s mut PatternScratch) -> Option<Groups<'s>> {
        None
    }
}
pub struct Groups<'s>(core::marker::PhantomData<&'s ()>);
impl Groups<'_> {
    pub fn get(&self, _: usize) -> Option<core::ops::Range<usize>> {
        None
    }
}
#[derive(Debug)]
pub struct PatternScratch;
impl PatternScratch {
    pub fn new() -> Self {
        Self
    }
    pub fn reserve(&mut self, _: &PathPattern, _: usize) {}
}
#[derive(Debug)]
pub struct Search;
impl Search {
    pub fn new(_: &str, _: &Limits) -> Result<Self, PatternError> {
        Err(PatternError)
    }
    pub fn is_match(&self, _: &[u8]) -> bool {
        false
    }
}
#[derive(Debug)]
pub struct PatternError;
impl core::fmt::Display for PatternError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("x")
    }
}
impl core::error::Error for PatternError {}
