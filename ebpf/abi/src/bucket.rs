#[derive(Debug, Default)]
pub struct PlainWord(core::cell::Cell<u64>);
#[derive(Clone, Copy, Debug)]
pub struct Rate;
impl Rate {
    pub fn new(_: u64, _: u32) -> Option<Self> {
        None
    }
    pub fn charge(&self, _: &PlainWord, _: u64, _: u32) -> bool {
        true
    }
}
