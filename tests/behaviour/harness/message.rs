//! The dispatch messages as a driver sees them, written from the contract and not from the daemon's code.

/// A device as messages name it: its address as text, and its id (TCP) or port (UDP).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Addr {
    pub ip: String,
    pub id: u64,
}

impl Addr {
    pub fn new(ip: &str, id: u64) -> Self {
        Self { ip: ip.to_owned(), id }
    }
}

/// A message from the daemon.
#[derive(Clone, PartialEq, Eq)]
pub enum Event {
    Opened(Addr),
    Closed(Addr),
    Received(Addr, Vec<u8>),
}

impl Event {
    /// Decodes strictly: an event that the contract does not describe to the byte is a failure.
    pub fn decode(bytes: &[u8]) -> Self {
        let kind = *bytes.first().expect("an empty message");
        let end = 1 + bytes[1..].iter().position(|&byte| byte == 0).expect("the end of the address");
        let ip = std::str::from_utf8(&bytes[1..end]).unwrap().to_owned();
        let rest = &bytes[end + 1..];
        let id = u64::from_be_bytes(rest[..8].try_into().unwrap());
        let size = u32::from_be_bytes(rest[8..12].try_into().unwrap());
        let data = rest[12..].to_vec();
        assert_eq!(data.len(), size as usize, "the size of {bytes:02x?}");
        let addr = Addr { ip, id };
        match kind {
            0 => Self::Opened(addr),
            1 => Self::Closed(addr),
            2 => Self::Received(addr, data),
            _ => panic!("a message type that drivers raise on: {kind}"),
        }
    }

    /// The device that it is about.
    pub const fn addr(&self) -> &Addr {
        match self {
            Self::Opened(addr) | Self::Closed(addr) | Self::Received(addr, _) => addr,
        }
    }
}

impl std::fmt::Debug for Event {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Opened(addr) => write!(out, "OPENED {}#{}", addr.ip, addr.id),
            Self::Closed(addr) => write!(out, "CLOSED {}#{}", addr.ip, addr.id),
            Self::Received(addr, data) => {
                let head = String::from_utf8_lossy(&data[..data.len().min(40)]);
                write!(out, "RECEIVED {}#{} {} bytes {head:?}", addr.ip, addr.id, data.len())
            }
        }
    }
}

/// Encodes a message of any type, with a size that need not be true.
pub fn request(kind: u8, ip: &str, id: u64, size: u32, data: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend_from_slice(ip.as_bytes());
    bytes.push(0);
    bytes.extend_from_slice(&id.to_be_bytes());
    bytes.extend_from_slice(&size.to_be_bytes());
    bytes.extend_from_slice(data);
    bytes
}

/// WRITE.
pub fn write(addr: &Addr, data: &[u8]) -> Vec<u8> {
    request(3, &addr.ip, addr.id, u32::try_from(data.len()).unwrap(), data)
}

/// CLOSE.
pub fn close(addr: &Addr) -> Vec<u8> {
    request(4, &addr.ip, addr.id, 0, &[])
}

/// Bytes `offset..offset + size` of an endless stream that differs with its seed, so that loss, repetition and mixing show.
pub fn pattern(seed: u64, offset: usize, size: usize) -> Vec<u8> {
    let first = offset / 8;
    let last = (offset + size).div_ceil(8);
    let mut bytes = Vec::with_capacity((last - first) * 8);
    for block in first..last {
        let mixed = (block as u64).wrapping_add(seed << 40).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        bytes.extend_from_slice(&(mixed ^ (mixed >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9).to_le_bytes());
    }
    bytes.drain(..offset % 8);
    bytes.truncate(size);
    bytes
}
