//! HPACK of nghttp2, loaded at run time so that nothing has to be installed to build (Debian: libnghttp2-14).
//!
//! The declarations follow `nghttp2/nghttp2.h` of 1.52: `nghttp2_hd_inflate_*` and `nghttp2_hd_deflate_*`.

use std::ffi::{CStr, c_int, c_void};
use std::ptr;
use std::sync::OnceLock;

use crate::traffic::Field;

const LIBRARY: &CStr = c"libnghttp2.so.14";
const INFLATE_FINAL: c_int = 1;
const INFLATE_EMIT: c_int = 2;

/// `nghttp2_nv`.
#[repr(C)]
struct Pair {
    name: *mut u8,
    value: *mut u8,
    name_bytes: usize,
    value_bytes: usize,
    flags: u8,
}

type New = unsafe extern "C" fn(*mut *mut c_void) -> c_int;
type NewWithTable = unsafe extern "C" fn(*mut *mut c_void, usize) -> c_int;
type Delete = unsafe extern "C" fn(*mut c_void);
type ChangeTableSize = unsafe extern "C" fn(*mut c_void, usize) -> c_int;
type Inflate = unsafe extern "C" fn(*mut c_void, *mut Pair, *mut c_int, *const u8, usize, c_int) -> isize;
type EndHeaders = unsafe extern "C" fn(*mut c_void) -> c_int;
type Deflate = unsafe extern "C" fn(*mut c_void, *mut u8, usize, *const Pair, usize) -> isize;

struct Functions {
    inflate_new: New,
    inflate_del: Delete,
    inflate_change_table_size: ChangeTableSize,
    inflate: Inflate,
    inflate_end: EndHeaders,
    deflate_new: NewWithTable,
    deflate_del: Delete,
    deflate: Deflate,
}

fn functions() -> &'static Functions {
    static FUNCTIONS: OnceLock<Functions> = OnceLock::new();
    FUNCTIONS.get_or_init(|| {
        // SAFETY: the name is a C string; loading nghttp2 runs no code of its own.
        let library = unsafe { libc::dlopen(LIBRARY.as_ptr(), libc::RTLD_NOW) };
        assert!(!library.is_null(), "{LIBRARY:?} is not there: install libnghttp2-14");
        let symbol = |name: &CStr| {
            // SAFETY: the handle is open, the name is a C string.
            let address = unsafe { libc::dlsym(library, name.as_ptr()) };
            assert!(!address.is_null(), "{LIBRARY:?} has no {name:?}");
            address
        };
        // SAFETY: the types are those of nghttp2.h, and pointers to functions have the size of those to data.
        unsafe {
            Functions {
                inflate_new: std::mem::transmute::<*mut c_void, New>(symbol(c"nghttp2_hd_inflate_new")),
                inflate_del: std::mem::transmute::<*mut c_void, Delete>(symbol(c"nghttp2_hd_inflate_del")),
                inflate_change_table_size: std::mem::transmute::<*mut c_void, ChangeTableSize>(symbol(
                    c"nghttp2_hd_inflate_change_table_size",
                )),
                inflate: std::mem::transmute::<*mut c_void, Inflate>(symbol(c"nghttp2_hd_inflate_hd2")),
                inflate_end: std::mem::transmute::<*mut c_void, EndHeaders>(symbol(
                    c"nghttp2_hd_inflate_end_headers",
                )),
                deflate_new: std::mem::transmute::<*mut c_void, NewWithTable>(symbol(
                    c"nghttp2_hd_deflate_new",
                )),
                deflate_del: std::mem::transmute::<*mut c_void, Delete>(symbol(c"nghttp2_hd_deflate_del")),
                deflate: std::mem::transmute::<*mut c_void, Deflate>(symbol(c"nghttp2_hd_deflate_hd")),
            }
        }
    })
}

/// nghttp2's decoder.
pub struct Inflater(*mut c_void, &'static Functions);

impl Inflater {
    /// A new one with the default table.
    pub fn new() -> Self {
        let functions = functions();
        let mut inflater = ptr::null_mut();
        // SAFETY: it writes the new object's address.
        let result = unsafe { (functions.inflate_new)(&mut inflater) };
        assert_eq!(result, 0, "nghttp2_hd_inflate_new");
        Inflater(inflater, functions)
    }

    /// Says what SETTINGS allow.
    pub fn change_table_size(&mut self, bytes: usize) {
        // SAFETY: the object is alive.
        let result = unsafe { (self.1.inflate_change_table_size)(self.0, bytes) };
        assert_eq!(result, 0, "nghttp2_hd_inflate_change_table_size");
    }

    /// Decodes a whole block; each field's name and value are handed to `on_field`.
    pub fn decode(&mut self, mut block: &[u8], mut on_field: impl FnMut(&[u8], &[u8])) {
        loop {
            let mut pair = Pair {
                name: ptr::null_mut(),
                value: ptr::null_mut(),
                name_bytes: 0,
                value_bytes: 0,
                flags: 0,
            };
            let mut flags = 0;
            // SAFETY: the object is alive, and the block is as long as it says.
            let taken =
                unsafe { (self.1.inflate)(self.0, &mut pair, &mut flags, block.as_ptr(), block.len(), 1) };
            let taken = usize::try_from(taken).expect("nghttp2 refuses a block that was taken for valid");
            block = &block[taken..];
            if flags & INFLATE_EMIT != 0 {
                // SAFETY: with the flag both are set, and valid until the next call.
                let (name, value) = unsafe {
                    (
                        std::slice::from_raw_parts(pair.name, pair.name_bytes),
                        std::slice::from_raw_parts(pair.value, pair.value_bytes),
                    )
                };
                on_field(name, value);
            }
            if flags & INFLATE_FINAL != 0 {
                // SAFETY: the object is alive.
                unsafe { (self.1.inflate_end)(self.0) };
                return;
            }
        }
    }
}

impl Default for Inflater {
    fn default() -> Self {
        Inflater::new()
    }
}

impl Drop for Inflater {
    fn drop(&mut self) {
        // SAFETY: the object is alive, and not used after.
        unsafe { (self.1.inflate_del)(self.0) };
    }
}

/// nghttp2's encoder, which makes the blocks of the gRPC sets: not ours, so that nothing is made to fit.
pub struct Deflater(*mut c_void, &'static Functions);

impl Deflater {
    /// A new one with the default table.
    pub fn new() -> Self {
        let functions = functions();
        let mut deflater = ptr::null_mut();
        // SAFETY: it writes the new object's address.
        let result = unsafe { (functions.deflate_new)(&mut deflater, 4096) };
        assert_eq!(result, 0, "nghttp2_hd_deflate_new");
        Deflater(deflater, functions)
    }

    /// Encodes a header list.
    pub fn encode(&mut self, fields: &[Field]) -> Vec<u8> {
        // nghttp2 does not write through these pointers.
        let pairs: Vec<Pair> = fields
            .iter()
            .map(|(name, value)| Pair {
                name: name.as_ptr().cast_mut(),
                value: value.as_ptr().cast_mut(),
                name_bytes: name.len(),
                value_bytes: value.len(),
                flags: 0,
            })
            .collect();
        let mut block = vec![0; 16 * 1024];
        // SAFETY: buffers are as long as it is told, and live until the call returns.
        let written =
            unsafe { (self.1.deflate)(self.0, block.as_mut_ptr(), block.len(), pairs.as_ptr(), pairs.len()) };
        block.truncate(usize::try_from(written).expect("nghttp2 cannot encode"));
        block
    }
}

impl Default for Deflater {
    fn default() -> Self {
        Deflater::new()
    }
}

impl Drop for Deflater {
    fn drop(&mut self) {
        // SAFETY: the object is alive, and not used after.
        unsafe { (self.1.deflate_del)(self.0) };
    }
}
