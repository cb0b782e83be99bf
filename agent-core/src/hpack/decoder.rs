//! Header blocks to fields: the representations of RFC 7541 §6.

use super::HpackError;
use super::huffman;
use super::integer::Reader;
use super::saved::SavedTable;
use super::static_table::{self, STATIC_ENTRIES};
use super::table::{DEFAULT_TABLE_BYTES, ENTRY_OVERHEAD_BYTES, EntryId, Name, Slot, Table, entry_size_min};
use crate::steps;

/// A name or a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Text<'a> {
    /// Its octets: any values, not necessarily text (gRPC's binary metadata has zeros in it).
    Known(&'a [u8]),
    /// The name, or the value, of an entry that was inserted before the join or inside a gap.
    Unknown(EntryId),
    /// A value that nobody wanted, so that it was not decoded, or not kept when its entry was inserted.
    Unwanted,
}

impl<'a> Text<'a> {
    /// The octets, if they are known.
    #[must_use]
    pub fn known(self) -> Option<&'a [u8]> {
        match self {
            Text::Known(octets) => Some(octets),
            Text::Unknown(_) | Text::Unwanted => None,
        }
    }
}

/// A field of a header list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Field<'a> {
    /// The name; never [`Text::Unwanted`].
    pub name: Text<'a>,
    /// The value.
    pub value: Text<'a>,
    /// Sent as a never-indexed literal: the sender says that the value is a secret (§7.1.3).
    pub sensitive: bool,
    /// What [`Decoder::decode_known`]'s caller knows the name as; zero from the other functions.
    pub kind: NameKind,
}

/// What a caller knows a name as: any number but zero, which stands for a name that was not asked about.
pub type NameKind = u8;

/// How much of one header list is reported (name + value + 32 octets count for each field).
///
/// From the first field on that goes over a limit nothing is reported, but everything still counts for the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListLimits {
    /// Largest list in bytes.
    pub bytes: usize,
    /// Most fields.
    pub fields: usize,
}

/// What a block held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockInfo {
    /// Fields, reported or not.
    pub fields: usize,
    /// Fields that the limits kept from being reported.
    pub unreported_fields: usize,
    /// Reported fields with an unknown name or value.
    pub unknown_fields: usize,
}

/// The decoder of one direction of a connection.
#[derive(Debug)]
pub struct Decoder {
    table: Table,
    /// Memory cap of the table.
    cap: u32,
    /// `SETTINGS_HEADER_TABLE_SIZE` in force, if it is known.
    settings_limit: Option<u32>,
    /// The table's maximum is not what the encoder said, but the largest that it may have chosen.
    is_maximum_assumed: bool,
}

impl Decoder {
    /// A flow that is seen from its first byte: the dynamic table is empty.
    ///
    /// `limit_bytes` caps the memory for the table. If SETTINGS allow a larger one, entries beyond the cap are
    /// forgotten and reported as unknown.
    #[must_use]
    pub fn synced(limit_bytes: usize) -> Self {
        let cap = u32::try_from(limit_bytes).unwrap_or(u32::MAX);
        Decoder {
            table: Table::empty(DEFAULT_TABLE_BYTES, limit_bytes),
            cap,
            settings_limit: Some(DEFAULT_TABLE_BYTES),
            is_maximum_assumed: false,
        }
    }

    /// A flow that was joined in its middle: there may be entries from before, and they are not known.
    ///
    /// Until SETTINGS are seen, the encoder's table is taken to be at most `limit_bytes`.
    #[must_use]
    pub fn late(limit_bytes: usize) -> Self {
        let cap = u32::try_from(limit_bytes).unwrap_or(u32::MAX);
        Decoder {
            table: Table::unknown(cap, limit_bytes),
            cap,
            settings_limit: None,
            is_maximum_assumed: true,
        }
    }

    /// What is known now, between two header blocks, to [restore](Self::restore) it at the same place of the flow.
    #[must_use]
    pub fn save(&self) -> SavedTable {
        self.table.save(self.is_maximum_assumed)
    }

    /// The decoder that was saved. What SETTINGS allow is not known: they may have changed meanwhile.
    ///
    /// `kind_of` and `limit_bytes` as in [`decode_known`](Self::decode_known) and [`late`](Self::late). `None` if nothing
    /// within these limits can have been saved like this.
    #[must_use]
    pub fn restore(
        saved: &SavedTable,
        limit_bytes: usize,
        mut kind_of: impl FnMut(Text<'_>) -> NameKind,
    ) -> Option<Self> {
        let table =
            Table::restore(saved, limit_bytes, |name| kind_of(name.map_or_else(Text::Unknown, Text::Known)))?;
        let mut decoder = Decoder {
            table,
            cap: u32::try_from(limit_bytes).unwrap_or(u32::MAX),
            settings_limit: None,
            is_maximum_assumed: saved.is_maximum_assumed,
        };
        decoder.forget_settings_limit();
        Some(decoder)
    }

    /// A gap that may have held header blocks: everything is unknown from here on.
    ///
    /// [`decode`](Self::decode) does this by itself when it returns an error.
    pub fn start_epoch(&mut self) {
        self.table.start_epoch(self.limit());
        self.is_maximum_assumed = true;
    }

    /// The receiver of this flow announced `SETTINGS_HEADER_TABLE_SIZE` (RFC 9113 §6.5.2).
    ///
    /// To be called when this flow acknowledges it, since the encoder uses the old size until then. A larger
    /// value may also be told as soon as it is seen.
    pub fn set_settings_limit(&mut self, bytes: u32) {
        self.settings_limit = Some(bytes);
        // Otherwise the table changes by the size update that the encoder has to send (§4.2).
        if self.is_maximum_assumed {
            self.table.set_maximum(bytes);
        }
    }

    /// SETTINGS of the receiver of this flow may have been missed: what it allows is no longer known.
    pub fn forget_settings_limit(&mut self) {
        self.settings_limit = None;
        if self.is_maximum_assumed {
            self.table.set_maximum(self.cap);
        }
    }

    /// The largest table that the encoder may choose.
    fn limit(&self) -> u32 {
        self.settings_limit.unwrap_or(self.cap)
    }

    /// No entry that may be alive is unknown: seen from the start, flushed, or churned through since.
    #[must_use]
    pub fn is_fully_known(&self) -> bool {
        self.table.is_fully_known()
    }

    /// Heap bytes that the table holds now.
    #[must_use]
    pub fn heap_bytes(&self) -> usize {
        self.table.heap_bytes()
    }

    /// Decodes one header block, and hands each of its fields to `on_field`.
    ///
    /// # Errors
    /// The block is not HPACK, or refers to what cannot exist. Fields before the fault were reported. The rest
    /// of the block may have held insertions, so a new epoch has been started.
    pub fn decode(
        &mut self,
        block: &[u8],
        limits: ListLimits,
        on_field: impl FnMut(Field<'_>),
    ) -> Result<BlockInfo, HpackError> {
        self.decode_wanted(block, limits, |_| true, on_field)
    }

    /// The same, for a caller that needs few values: those of literals whose name `wants_value` declines are
    /// neither decoded nor kept, and reported as [`Text::Unwanted`], also when their entry is used later.
    ///
    /// `wants_value` gets [`Text::Known`] or [`Text::Unknown`]. What it declines is not checked in full: a fault
    /// inside of the Huffman code of a value that is neither wanted nor inserted is not noticed.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub fn decode_wanted(
        &mut self,
        block: &[u8],
        limits: ListLimits,
        mut wants_value: impl FnMut(Text<'_>) -> bool,
        on_field: impl FnMut(Field<'_>),
    ) -> Result<BlockInfo, HpackError> {
        self.decode_known(block, limits, |_| 0, |_, name| wants_value(name), on_field)
    }

    /// The same, for a caller that knows some names: what `kind_of` says of a name is kept with the entries that have
    /// it, and comes back with each of their fields ([`Field::kind`]). It must not change its mind.
    ///
    /// An indexed field then reads no name: with 100,000 connections, whose tables are in no cache, a request's block
    /// costs about two cache misses less.
    ///
    /// # Errors
    /// As [`decode`](Self::decode).
    pub fn decode_known(
        &mut self,
        block: &[u8],
        limits: ListLimits,
        kind_of: impl FnMut(Text<'_>) -> NameKind,
        wants_value: impl FnMut(NameKind, Text<'_>) -> bool,
        on_field: impl FnMut(Field<'_>),
    ) -> Result<BlockInfo, HpackError> {
        let list = List { left: limits, is_full: false, info: BlockInfo::default(), on_field };
        let mut block = Block { decoder: self, reader: Reader::new(block), kind_of, wants_value, list };
        let result = block.decode();
        let info = block.list.info;
        match result {
            Ok(()) => {
                self.table.shrink();
                Ok(info)
            }
            Err(error) => {
                self.start_epoch();
                Err(error)
            }
        }
    }

    /// What the index of a field stands for (§2.3.3).
    #[inline]
    fn resolve(&self, index: u32) -> Result<Reference, HpackError> {
        if index == 0 {
            Err(HpackError::IndexZero)
        } else if index <= STATIC_ENTRIES {
            Ok(Reference::Static(index as u8))
        } else {
            match self.table.slot(index - STATIC_ENTRIES - 1) {
                Some(Slot::Retained(place)) => Ok(Reference::Retained(place)),
                Some(Slot::Unknown(id)) => Ok(Reference::Unknown(id)),
                None => Err(HpackError::IndexBeyondTable(index)),
            }
        }
    }

    /// A table size update (§6.3).
    fn update_size(&mut self, bytes: u32) -> Result<(), HpackError> {
        let limit = self.limit();
        if bytes > limit {
            return Err(HpackError::SizeUpdateAboveLimit { bytes, limit });
        }
        self.table.set_maximum(bytes);
        self.is_maximum_assumed = false;
        Ok(())
    }
}

/// What an index stands for.
#[derive(Clone, Copy)]
enum Reference {
    Static(u8),
    Retained(usize),
    Unknown(EntryId),
}

/// The name of a literal.
#[derive(Clone, Copy)]
enum LiteralName<'a> {
    Indexed(Reference),
    /// In the block.
    Plain(&'a [u8]),
    /// Staged in the table, this many octets.
    Staged(usize),
}

/// A string literal as it stands in the block.
#[derive(Clone, Copy)]
struct CodedString<'a> {
    octets: &'a [u8],
    is_huffman: bool,
}

/// What becomes of a literal.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Indexing {
    Incremental,
    Without,
    Never,
}

/// The reported part of a header list.
struct List<F> {
    left: ListLimits,
    is_full: bool,
    info: BlockInfo,
    on_field: F,
}

impl<F: FnMut(Field<'_>)> List<F> {
    /// Counts a field of `bytes`, and says if it is to be reported.
    #[inline]
    fn admits(&mut self, bytes: usize) -> bool {
        self.info.fields += 1;
        self.is_full |= bytes > self.left.bytes || self.left.fields == 0;
        if self.is_full {
            self.info.unreported_fields += 1;
            return false;
        }
        self.left.bytes -= bytes;
        self.left.fields -= 1;
        true
    }

    #[inline]
    fn report(&mut self, kind: NameKind, name: Text<'_>, value: Text<'_>, sensitive: bool) {
        if matches!(name, Text::Unknown(_)) || matches!(value, Text::Unknown(_)) {
            self.info.unknown_fields += 1;
        }
        (self.on_field)(Field { name, value, sensitive, kind });
    }
}

/// A header block while it is decoded.
struct Block<'d, 'b, K, W, F> {
    decoder: &'d mut Decoder,
    reader: Reader<'b>,
    kind_of: K,
    wants_value: W,
    list: List<F>,
}

impl<'b, K, W, F> Block<'_, 'b, K, W, F>
where
    K: FnMut(Text<'_>) -> NameKind,
    W: FnMut(NameKind, Text<'_>) -> bool,
    F: FnMut(Field<'_>),
{
    /// Every round takes at least one octet of the block, or returns.
    fn decode(&mut self) -> Result<(), HpackError> {
        while let Some(first) = self.reader.octet() {
            steps::count();
            if first & 0b1000_0000 != 0 {
                let index = self.reader.integer(first, 0b0111_1111)?;
                self.indexed(index)?;
            } else if first & 0b0100_0000 != 0 {
                let name_index = self.reader.integer(first, 0b0011_1111)?;
                self.literal(name_index, Indexing::Incremental)?;
            } else if first & 0b0010_0000 != 0 {
                let bytes = self.reader.integer(first, 0b0001_1111)?;
                if self.list.info.fields > 0 {
                    return Err(HpackError::SizeUpdateAfterField);
                }
                self.decoder.update_size(bytes)?;
            } else {
                let indexing = if first & 0b0001_0000 != 0 { Indexing::Never } else { Indexing::Without };
                let name_index = self.reader.integer(first, 0b0000_1111)?;
                self.literal(name_index, indexing)?;
            }
        }
        Ok(())
    }

    /// An indexed field (§6.1).
    #[inline]
    fn indexed(&mut self, index: u32) -> Result<(), HpackError> {
        let table = &self.decoder.table;
        match self.decoder.resolve(index)? {
            Reference::Static(index) => {
                if let Some((name, value)) = static_table::entry(u32::from(index))
                    && self.list.admits(name.len() + value.len() + ENTRY_OVERHEAD_BYTES)
                {
                    let kind = (self.kind_of)(Text::Known(name));
                    self.list.report(kind, Text::Known(name), Text::Known(value), false);
                }
            }
            Reference::Retained(place) => {
                if self.list.admits(table.entry_size_min(place)) {
                    let name = retained_name(table, place);
                    let value = table.value_octets(place).map_or(Text::Unwanted, Text::Known);
                    self.list.report(table.kind(place), name, value, false);
                }
            }
            Reference::Unknown(id) => {
                if self.list.admits(ENTRY_OVERHEAD_BYTES) {
                    let kind = (self.kind_of)(Text::Unknown(id));
                    self.list.report(kind, Text::Unknown(id), Text::Unknown(id), false);
                }
            }
        }
        Ok(())
    }

    /// A literal field (§6.2).
    fn literal(&mut self, name_index: u32, indexing: Indexing) -> Result<(), HpackError> {
        let name = if name_index == 0 {
            let name = self.string()?;
            if name.is_huffman {
                LiteralName::Staged(self.stage(name, indexing)?)
            } else {
                LiteralName::Plain(name.octets)
            }
        } else {
            LiteralName::Indexed(self.decoder.resolve(name_index)?)
        };
        let value = self.string()?;
        if indexing == Indexing::Incremental {
            self.inserted_literal(name, value)
        } else {
            let result = self.passing_literal(name, value, indexing == Indexing::Never);
            self.decoder.table.discard_staged();
            result
        }
    }

    /// A literal that enters the table (§6.2.1).
    fn inserted_literal(&mut self, name: LiteralName<'_>, value: CodedString<'_>) -> Result<(), HpackError> {
        let kind = self.kind(&name);
        let wants_value = (self.wants_value)(kind, name.text(&self.decoder.table));
        let stored_name = match name {
            LiteralName::Indexed(Reference::Static(index)) => Name::Static(index),
            LiteralName::Indexed(Reference::Unknown(id)) => Name::Unknown(id.ordinal),
            LiteralName::Indexed(Reference::Retained(place)) => {
                // The entry may be evicted by this insertion: its name is copied first (§4.4).
                self.decoder.table.stage_name_of(place);
                self.decoder.table.name(place)
            }
            LiteralName::Plain(octets) => {
                if octets.len() <= self.room(Indexing::Incremental) {
                    self.decoder.table.stage(octets);
                }
                Name::Stored(octets.len() as u32)
            }
            LiteralName::Staged(bytes) => Name::Stored(bytes as u32),
        };
        let before_value = self.decoder.table.staged().len();
        let value_bytes = match (wants_value, value.is_huffman) {
            (true, _) => self.stage(value, Indexing::Incremental)?,
            (false, true) => huffman::decoded_len(value.octets)?,
            (false, false) => value.octets.len(),
        };
        let table = &mut self.decoder.table;
        if self.list.admits(entry_size_min(stored_name, value_bytes)) {
            let value =
                if wants_value { Text::Known(&table.staged()[before_value..]) } else { Text::Unwanted };
            self.list.report(kind, name.text(table), value, false);
        }
        table.insert_staged(stored_name, kind, value_bytes, wants_value);
        Ok(())
    }

    /// A literal that does not enter the table (§6.2.2, §6.2.3).
    fn passing_literal(
        &mut self,
        name: LiteralName<'_>,
        value: CodedString<'_>,
        sensitive: bool,
    ) -> Result<(), HpackError> {
        let name_bytes = name.text(&self.decoder.table).known().map_or(0, <[u8]>::len);
        let kind = self.kind(&name);
        let wants_value = !self.list.is_full && (self.wants_value)(kind, name.text(&self.decoder.table));
        let before_value = self.decoder.table.staged().len();
        // A value that is not decoded counts as it stands in the block.
        let value_bytes = if wants_value && value.is_huffman {
            self.stage(value, Indexing::Without)?
        } else {
            value.octets.len()
        };
        let table = &self.decoder.table;
        if self.list.admits(name_bytes.saturating_add(value_bytes).saturating_add(ENTRY_OVERHEAD_BYTES)) {
            let value = match (wants_value, value.is_huffman) {
                (true, true) => Text::Known(&table.staged()[before_value..]),
                (true, false) => Text::Known(value.octets),
                (false, _) => Text::Unwanted,
            };
            self.list.report(kind, name.text(table), value, sensitive);
        }
        Ok(())
    }

    /// What the caller knows the name of a literal as.
    #[inline]
    fn kind(&mut self, name: &LiteralName<'_>) -> NameKind {
        let table = &self.decoder.table;
        match *name {
            LiteralName::Indexed(Reference::Retained(place)) => table.kind(place),
            _ => (self.kind_of)(name.text(table)),
        }
    }

    /// A string literal, not decoded yet (§5.2).
    #[inline]
    fn string(&mut self) -> Result<CodedString<'b>, HpackError> {
        let first = self.reader.octet().ok_or(HpackError::Truncated)?;
        let length = self.reader.integer(first, 0b0111_1111)?;
        Ok(CodedString { octets: self.reader.octets(length)?, is_huffman: first & 0b1000_0000 != 0 })
    }

    /// How large a string can be that is still reported, or kept in the table.
    fn room(&self, indexing: Indexing) -> usize {
        let reported = if self.list.is_full { 0 } else { self.list.left.bytes };
        let kept = if indexing == Indexing::Incremental { self.decoder.cap as usize } else { 0 };
        reported.max(kept)
    }

    /// Stages the octets of a string, and returns its decoded length. A string that is larger than the room is
    /// staged in part: it is neither reported nor kept.
    fn stage(&mut self, string: CodedString<'_>, indexing: Indexing) -> Result<usize, HpackError> {
        let room = self.room(indexing);
        let table = &mut self.decoder.table;
        if !string.is_huffman {
            table.stage(&string.octets[..string.octets.len().min(room)]);
            return Ok(string.octets.len());
        }
        // One more than what has to fit, since octets are written in pairs.
        let out = table.stage_room(huffman::decoded_len_max(string.octets.len()).min(room) + 1);
        let written_max = out.len();
        let decoded = huffman::decode(string.octets, out);
        // After an error all of it, so that it is overwritten with the rest of what is staged.
        table.stage_from_room(decoded.unwrap_or(written_max).min(written_max));
        decoded
    }
}

impl LiteralName<'_> {
    fn text<'t>(&'t self, table: &'t Table) -> Text<'t> {
        match *self {
            LiteralName::Indexed(Reference::Static(index)) => Text::Known(static_table::name(index)),
            LiteralName::Indexed(Reference::Retained(place)) => retained_name(table, place),
            LiteralName::Indexed(Reference::Unknown(id)) => Text::Unknown(id),
            LiteralName::Plain(octets) => Text::Known(octets),
            LiteralName::Staged(bytes) => Text::Known(&table.staged()[..bytes.min(table.staged().len())]),
        }
    }
}

fn retained_name(table: &Table, place: usize) -> Text<'_> {
    match table.name_octets(place) {
        Ok(octets) => Text::Known(octets),
        Err(id) => Text::Unknown(id),
    }
}
