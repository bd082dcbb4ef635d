//! The only unsafe code: what `cryptoki` 0.12 lacks. Mechanism numbers below the vendor range, attribute read-back of
//! any value, C_Sign and C_WrapKey in one call into the caller's buffer, and key values into zeroizing memory.

use std::path::Path;
use std::ptr;

use cryptoki::context::Function;
use cryptoki::error::{Error, Result, Rv};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, ObjectHandle};
use cryptoki::session::Session;
use cryptoki_sys::{
    CK_ATTRIBUTE, CK_ATTRIBUTE_TYPE, CK_FUNCTION_LIST, CK_INTERFACE, CK_MECHANISM, CK_MECHANISM_TYPE,
    CK_ULONG, CK_UNAVAILABLE_INFORMATION, CKA_PRIVATE_EXPONENT, CKA_VALUE,
};
use zeroize::Zeroizing;

/// A mechanism by its number; the crate's own constructor refuses numbers it has no name for.
pub(crate) fn mechanism_type(number: CK_MECHANISM_TYPE) -> MechanismType {
    // SAFETY: `MechanismType` is `#[repr(transparent)]` over its only field, a `CK_MECHANISM_TYPE`, so both have one
    // layout; every value of the integer is a valid value of the struct (the crate itself casts slices of one to the
    // other). `transmute` checks the sizes at compile time.
    unsafe { std::mem::transmute::<CK_MECHANISM_TYPE, MechanismType>(number) }
}

/// The function table of a module, for the calls the crate does not make as we need them.
pub(crate) struct Functions {
    table: CK_FUNCTION_LIST,
    /// Keeps the code behind `table` mapped.
    _library: cryptoki_sys::Pkcs11,
}

impl Functions {
    /// Takes the table of the module that [`cryptoki::context::Pkcs11`] was made from, the same way it does, so that
    /// both speak to one instance.
    pub(crate) fn load(module: &Path) -> Result<Self> {
        // SAFETY: loading runs the module's initialisers, which is what naming it in the configuration asks for; it
        // is mapped already, so this only counts the reference. Its exported symbols have the types of the standard,
        // which is what makes it a PKCS#11 module.
        let library = unsafe { cryptoki_sys::Pkcs11::new(module) }.map_err(Error::LibraryLoading)?;
        if library.C_GetInterface.is_ok() {
            let mut interface: *mut CK_INTERFACE = ptr::null_mut();
            // SAFETY: the symbol exists (checked above). PKCS#11 3.0 §5.4.5: null name and version ask for the
            // default interface, and the result is written through a pointer to our own variable.
            let rv = unsafe { library.C_GetInterface(ptr::null_mut(), ptr::null_mut(), &mut interface, 0) };
            Rv::from(rv).into_result(Function::GetInterface)?;
            if !interface.is_null() {
                // SAFETY: not null; the standard makes it point to a CK_INTERFACE that lives as long as the module.
                let table = unsafe { (*interface).pFunctionList }.cast::<CK_FUNCTION_LIST>();
                if !table.is_null() {
                    // SAFETY: not null; every version of the table begins with the members of CK_FUNCTION_LIST in
                    // the same order (PKCS#11 3.0 §3.6), and it lives as long as the module.
                    return Ok(Self { table: unsafe { *table }, _library: library });
                }
            }
        }
        if library.C_GetFunctionList.is_err() {
            return Err(Error::MissingSymbol("C_GetFunctionList"));
        }
        let mut table: *mut CK_FUNCTION_LIST = ptr::null_mut();
        // SAFETY: the symbol exists (checked above); the result is written through a pointer to our own variable.
        Rv::from(unsafe { library.C_GetFunctionList(&mut table) }).into_result(Function::GetFunctionList)?;
        if table.is_null() {
            return Err(Error::NullFunctionPointer);
        }
        // SAFETY: not null; it points to the module's table, which lives as long as the module.
        Ok(Self { table: unsafe { *table }, _library: library })
    }

    /// C_Sign into `output` in one call, after [`Session::sign_init`]. Returns the bytes written.
    pub(crate) fn sign_into(&self, session: &Session, data: &[u8], output: &mut [u8]) -> Result<usize> {
        let sign = self.table.C_Sign.ok_or(Error::NullFunctionPointer)?;
        let mut len = CK_ULONG::try_from(output.len())?;
        // SAFETY: `session` is open and used by this thread only (`Session` is not `Sync`). `data` is only read
        // (§5.2: input pointers are not const for history's sake) and holds as many bytes as said. `output` is
        // writable for `len` bytes, and the module writes no more than that (else CKR_BUFFER_TOO_SMALL).
        let rv = unsafe {
            sign(
                session.handle(),
                data.as_ptr().cast_mut(),
                CK_ULONG::try_from(data.len())?,
                output.as_mut_ptr(),
                &mut len,
            )
        };
        Rv::from(rv).into_result(Function::Sign)?;
        written(len, output)
    }

    /// C_WrapKey into `output` in one call: with the usual size query SoftHSM wraps twice. Returns the bytes written.
    pub(crate) fn wrap_into(
        &self,
        session: &Session,
        mechanism: &Mechanism<'_>,
        wrapping_key: ObjectHandle,
        key: ObjectHandle,
        output: &mut [u8],
    ) -> Result<usize> {
        let wrap = self.table.C_WrapKey.ok_or(Error::NullFunctionPointer)?;
        let mut mechanism: CK_MECHANISM = mechanism.into();
        let mut len = CK_ULONG::try_from(output.len())?;
        // SAFETY: as for C_Sign; `mechanism` is ours, and what its parameter points to is borrowed by the `Mechanism`
        // that outlives this call. Handles are plain numbers, which the module checks.
        let rv = unsafe {
            wrap(
                session.handle(),
                &mut mechanism,
                wrapping_key.handle(),
                key.handle(),
                output.as_mut_ptr(),
                &mut len,
            )
        };
        Rv::from(rv).into_result(Function::WrapKey)?;
        written(len, output)
    }

    /// CKA_VALUE of a key that is meant to be read, straight into zeroizing memory. Fails unless it has N bytes.
    pub(crate) fn key_value<const N: usize>(
        &self,
        session: &Session,
        object: ObjectHandle,
    ) -> Result<Zeroizing<[u8; N]>> {
        let mut value = Zeroizing::new([0; N]);
        let len = self.read_attribute(session, object, CKA_VALUE, &mut value[..])?;
        if len == N { Ok(value) } else { Err(Error::InvalidValue) }
    }

    /// C_CreateObject of a secret key whose value stays in the caller's zeroizing memory: the crate's own attribute would
    /// hold a copy that is neither zeroized nor kept out of debug output.
    pub(crate) fn create_secret(
        &self,
        session: &Session,
        template: &[Attribute],
        value: &[u8],
    ) -> Result<ObjectHandle> {
        let create = self.table.C_CreateObject.ok_or(Error::NullFunctionPointer)?;
        let mut template: Vec<CK_ATTRIBUTE> = template.iter().map(CK_ATTRIBUTE::from).collect();
        template.push(CK_ATTRIBUTE {
            type_: CKA_VALUE,
            pValue: value.as_ptr().cast_mut().cast(),
            ulValueLen: CK_ULONG::try_from(value.len())?,
        });
        let mut handle = 0;
        // SAFETY: as for C_Sign; the entries point into `template`'s attributes and `value`, which outlive the call and
        // are only read (§5.7.1), and there are as many as said.
        let rv = unsafe {
            create(session.handle(), template.as_mut_ptr(), CK_ULONG::try_from(template.len())?, &mut handle)
        };
        Rv::from(rv).into_result(Function::CreateObject)?;
        // SAFETY: the handle is one the module has just given for this session.
        Ok(unsafe { ObjectHandle::new_from_raw(handle) })
    }

    /// The attributes of a template within an object, type and value of each.
    pub(crate) fn nested_attribute(
        &self,
        session: &Session,
        object: ObjectHandle,
        attribute: CK_ATTRIBUTE_TYPE,
    ) -> Result<Vec<(CK_ATTRIBUTE_TYPE, Vec<u8>)>> {
        /// More than any value of ours has.
        const VALUE_MAX: usize = 64;
        let get = self.table.C_GetAttributeValue.ok_or(Error::NullFunctionPointer)?;
        let bytes = self.read_attribute(session, object, attribute, &mut [])?;
        let count = bytes / size_of::<CK_ATTRIBUTE>();
        if count == 0 {
            return Ok(Vec::new());
        }
        let mut values = vec![[0u8; VALUE_MAX]; count];
        let empty = CK_ATTRIBUTE { type_: 0, pValue: ptr::null_mut(), ulValueLen: 0 };
        let mut inner: Vec<CK_ATTRIBUTE> = vec![empty; count];
        // First the types and lengths, then the values.
        for with_values in [false, true] {
            if with_values {
                for (entry, value) in inner.iter_mut().zip(&mut values) {
                    if usize::try_from(entry.ulValueLen)? > VALUE_MAX {
                        return Err(Error::InvalidValue);
                    }
                    entry.pValue = value.as_mut_ptr().cast();
                }
            }
            let mut template = CK_ATTRIBUTE {
                type_: attribute,
                pValue: inner.as_mut_ptr().cast(),
                ulValueLen: CK_ULONG::try_from(count * size_of::<CK_ATTRIBUTE>())?,
            };
            // SAFETY: as for a plain attribute; the value of an array attribute is an array of CK_ATTRIBUTE (§4.8), which
            // is writable for as many as said, each with a value pointer that is null (the module then writes type and
            // length only) or writable for the length that the module itself gave.
            let rv = unsafe { get(session.handle(), object.handle(), &mut template, 1) };
            Rv::from(rv).into_result(Function::GetAttributeValue)?;
        }
        let mut read = Vec::with_capacity(count);
        for (entry, value) in inner.iter().zip(&values) {
            let len = usize::try_from(entry.ulValueLen)?;
            read.push((entry.type_, value.get(..len).ok_or(Error::InvalidValue)?.to_vec()));
        }
        Ok(read)
    }

    /// Any attribute but a key's value, whatever the crate thinks of its contents.
    pub(crate) fn attribute(
        &self,
        session: &Session,
        object: ObjectHandle,
        attribute: CK_ATTRIBUTE_TYPE,
    ) -> Result<Vec<u8>> {
        if matches!(attribute, CKA_VALUE | CKA_PRIVATE_EXPONENT) {
            return Err(Error::NotSupported);
        }
        let mut value = vec![0; self.read_attribute(session, object, attribute, &mut [])?];
        let len = self.read_attribute(session, object, attribute, &mut value)?;
        value.truncate(len);
        Ok(value)
    }

    /// C_GetAttributeValue; with an empty buffer only the length is asked for.
    fn read_attribute(
        &self,
        session: &Session,
        object: ObjectHandle,
        attribute: CK_ATTRIBUTE_TYPE,
        buffer: &mut [u8],
    ) -> Result<usize> {
        let get = self.table.C_GetAttributeValue.ok_or(Error::NullFunctionPointer)?;
        let mut template = CK_ATTRIBUTE {
            type_: attribute,
            pValue: if buffer.is_empty() { ptr::null_mut() } else { buffer.as_mut_ptr().cast() },
            ulValueLen: CK_ULONG::try_from(buffer.len())?,
        };
        // SAFETY: one template entry, ours; its value pointer is null (§5.7.5: the module then writes the length
        // only) or writable for the length said, which the module does not exceed. The session is this thread's.
        let rv = unsafe { get(session.handle(), object.handle(), &mut template, 1) };
        Rv::from(rv).into_result(Function::GetAttributeValue)?;
        if template.ulValueLen == CK_UNAVAILABLE_INFORMATION {
            return Err(Error::NotSupported);
        }
        let len = usize::try_from(template.ulValueLen)?;
        if buffer.is_empty() || len <= buffer.len() { Ok(len) } else { Err(Error::InvalidValue) }
    }
}

/// A module that claims to have written more than it was given room for is not believed.
fn written(len: CK_ULONG, output: &[u8]) -> Result<usize> {
    let len = usize::try_from(len)?;
    if len <= output.len() { Ok(len) } else { Err(Error::InvalidValue) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mechanism_without_a_name_in_the_crate_keeps_its_number() {
        for number in [0x1104, 0x210a, 0x210b] {
            assert_eq!(CK_MECHANISM_TYPE::from(mechanism_type(number)), number);
        }
    }
}
