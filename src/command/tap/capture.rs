//! A capture of what is tapped: pcapng, with IP and TCP or UDP headers made up, so that other tools see the protocol inside.
//!
//! **Invariants.** A TCP device's packets are one whole stream: a handshake first, sequence numbers that follow the data, a
//! FIN each way last. A device that was connected before the tap has its handshake before its first message. Packets reach
//! the file, or the pipe, whole and at once. Streams are bounded: of too many, the one with the lowest id is forgotten.
//! **Not here.** What is captured (`tap`).

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use etherparse::{IpHeaders, IpNumber, Ipv4Header, Ipv6Header, PacketBuilder, PacketBuilderStep};
use pcap_file::pcapng::PcapNgWriter;
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{InterfaceDescriptionBlock, InterfaceDescriptionOption};
use pcap_file::{DataLink, PcapError};

use crate::policy::port_id::Transport;
use crate::protocol::message::DeviceName;
use crate::protocol::tapped::{TapEvent, Tapped};

/// Where the daemon seems to be: addresses for documentation (RFC 5737, RFC 3849), as a port has none of its own.
const DAEMON_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const DAEMON_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
/// The port of the TCP device with id 0; the next has the next, and after the last it begins again.
const DEVICE_PORT_MIN: u16 = 16_384;
const DEVICE_PORTS: u64 = 65_536 - DEVICE_PORT_MIN as u64;
/// Data bytes of one TCP segment: what Ethernet carries.
const SEGMENT_BYTES_MAX: usize = 1_440;
const WINDOW: u16 = u16::MAX;
const HOPS: u8 = 64;
/// No packet is longer: a datagram is 65,507 bytes and its headers at most.
const SNAP_BYTES: u32 = 65_575;
/// Nanoseconds, in powers of ten: what pcap-file writes.
const NANOSECONDS: u8 = 9;
const STREAMS_MAX: usize = 65_536;
/// How much later in the space of sequence numbers each stream begins.
const SEQUENCE_STEP: u32 = 64_000;

/// A capture under way.
pub(super) struct Capture<W: Write> {
    writer: PcapNgWriter<Vec<u8>>,
    target: W,
    transport: Transport,
    port: u16,
    streams: BTreeMap<u64, Stream>,
    /// Where the last stream began.
    first_sequence: u32,
    /// What the next packet says beside its data.
    comment: Option<String>,
    time: Duration,
}

/// A TCP connection as it seems.
#[derive(Clone, Copy)]
struct Stream {
    device: Side,
    daemon: Side,
    is_closed_by_driver: bool,
}

#[derive(Clone, Copy)]
struct Side {
    address: SocketAddr,
    next_sequence: u32,
}

/// Who sends a packet.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Sender {
    Device,
    Daemon,
}

/// What a segment is beside its data.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Segment {
    Syn,
    SynAck,
    Ack,
    Data,
    Fin,
}

impl<W: Write> Capture<W> {
    /// Begins a capture of messages of this port.
    pub(super) fn new(target: W, transport: Transport, port: u16) -> io::Result<Self> {
        let mut writer = PcapNgWriter::new(Vec::new()).map_err(io_error)?;
        let interface = InterfaceDescriptionBlock {
            linktype: DataLink::RAW,
            snaplen: SNAP_BYTES,
            options: vec![InterfaceDescriptionOption::IfTsResol(NANOSECONDS)],
        };
        writer.write_pcapng_block(interface).map_err(io_error)?;
        let mut capture = Capture {
            writer,
            target,
            transport,
            port,
            streams: BTreeMap::new(),
            first_sequence: 0,
            comment: None,
            time: Duration::ZERO,
        };
        capture.flush()?;
        Ok(capture)
    }

    /// Adds a message.
    pub(super) fn take(&mut self, tapped: &Tapped) -> io::Result<()> {
        self.time = Duration::from_micros(tapped.time_us);
        match &tapped.event {
            TapEvent::Opened { device } => {
                if let Some(before) = self.streams.remove(&device.id_or_port) {
                    self.finish(before)?;
                }
                let stream = self.stream(device)?;
                self.keep(device.id_or_port, stream);
            }
            TapEvent::Received { device, data } => self.data(device, Sender::Device, data)?,
            TapEvent::Write { device, module, data } => {
                if !module.is_empty() {
                    self.remark(format!("written by {module}"));
                }
                self.data(device, Sender::Daemon, data)?;
            }
            TapEvent::Close { device, .. } => {
                let mut stream = self.stream(device)?;
                stream.is_closed_by_driver = true;
                self.keep(device.id_or_port, stream);
            }
            TapEvent::Closed { device } => {
                if let Some(stream) = self.streams.remove(&device.id_or_port) {
                    self.finish(stream)?;
                }
            }
            // Its ids begin again.
            TapEvent::PortOpen => self.end_streams()?,
            TapEvent::PortClosed => {}
            TapEvent::Dropped { count } => self.remark(format!("{count} messages before this one are missing")),
        }
        self.flush()
    }

    /// The tap has ended: so do its streams.
    pub(super) fn end(&mut self) -> io::Result<()> {
        self.end_streams()?;
        self.flush()
    }

    fn end_streams(&mut self) -> io::Result<()> {
        std::mem::take(&mut self.streams).into_values().try_for_each(|stream| self.finish(stream))
    }

    /// A message's data as a datagram, or as segments of the device's stream.
    fn data(&mut self, device: &DeviceName, sender: Sender, data: &[u8]) -> io::Result<()> {
        match self.transport {
            Transport::Udp => {
                let device_port = u16::try_from(device.id_or_port).unwrap_or_default();
                let (device, daemon) = self.ends(device, device_port);
                let (from, to) = if sender == Sender::Device { (device, daemon) } else { (daemon, device) };
                let mut packet = Vec::new();
                let builder = ip_packet(from, to)?.udp(from.port(), to.port());
                builder.write(&mut packet, data).map_err(io::Error::other)?;
                self.packet(&packet)
            }
            Transport::Tcp => {
                let mut stream = self.stream(device)?;
                for part in data.chunks(SEGMENT_BYTES_MAX) {
                    self.segment(&mut stream, sender, Segment::Data, part)?;
                }
                self.keep(device.id_or_port, stream);
                Ok(())
            }
        }
    }

    /// The stream of a TCP device; a new one has its handshake first.
    fn stream(&mut self, device: &DeviceName) -> io::Result<Stream> {
        if let Some(stream) = self.streams.get(&device.id_or_port) {
            return Ok(*stream);
        }
        // Lossless: less than the number of ports.
        let device_port = DEVICE_PORT_MIN + (device.id_or_port % DEVICE_PORTS) as u16;
        let (device, daemon) = self.ends(device, device_port);
        // Two streams with the same ends are told apart by it.
        self.first_sequence = self.first_sequence.wrapping_add(SEQUENCE_STEP);
        let side = |address| Side { address, next_sequence: self.first_sequence };
        let mut stream = Stream { device: side(device), daemon: side(daemon), is_closed_by_driver: false };
        self.segment(&mut stream, Sender::Device, Segment::Syn, &[])?;
        self.segment(&mut stream, Sender::Daemon, Segment::SynAck, &[])?;
        self.segment(&mut stream, Sender::Device, Segment::Ack, &[])?;
        Ok(stream)
    }

    fn keep(&mut self, id: u64, stream: Stream) {
        self.streams.insert(id, stream);
        if self.streams.len() > STREAMS_MAX {
            self.streams.pop_first();
        }
    }

    /// A FIN each way, first of the side that ended it.
    fn finish(&mut self, mut stream: Stream) -> io::Result<()> {
        let (first, second) = match stream.is_closed_by_driver {
            true => (Sender::Daemon, Sender::Device),
            false => (Sender::Device, Sender::Daemon),
        };
        self.segment(&mut stream, first, Segment::Fin, &[])?;
        self.segment(&mut stream, second, Segment::Fin, &[])?;
        self.segment(&mut stream, first, Segment::Ack, &[])
    }

    fn segment(&mut self, stream: &mut Stream, sender: Sender, kind: Segment, data: &[u8]) -> io::Result<()> {
        let (from, to) = match sender {
            Sender::Device => (&mut stream.device, &stream.daemon),
            Sender::Daemon => (&mut stream.daemon, &stream.device),
        };
        let builder = ip_packet(from.address, to.address)?;
        let builder = builder.tcp(from.address.port(), to.address.port(), from.next_sequence, WINDOW);
        let acknowledging = |builder: PacketBuilderStep<_>| builder.ack(to.next_sequence);
        let builder = match kind {
            Segment::Syn => builder.syn(),
            Segment::SynAck => acknowledging(builder.syn()),
            Segment::Ack => acknowledging(builder),
            Segment::Data => acknowledging(builder.psh()),
            Segment::Fin => acknowledging(builder.fin()),
        };
        // SYN and FIN count as a byte each (RFC 9293 section 3.4). Lossless: a segment is short.
        let counted = data.len() as u32 + u32::from(matches!(kind, Segment::Syn | Segment::SynAck | Segment::Fin));
        from.next_sequence = from.next_sequence.wrapping_add(counted);
        let mut packet = Vec::new();
        builder.write(&mut packet, data).map_err(io::Error::other)?;
        self.packet(&packet)
    }

    /// The device's end and the daemon's, of the same family.
    fn ends(&self, device: &DeviceName, device_port: u16) -> (SocketAddr, SocketAddr) {
        let ip = std::str::from_utf8(device.ip.as_bytes()).ok().and_then(|text| text.parse().ok());
        let ip = ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
        let daemon = if ip.is_ipv4() { IpAddr::V4(DAEMON_V4) } else { IpAddr::V6(DAEMON_V6) };
        (SocketAddr::new(ip, device_port), SocketAddr::new(daemon, self.port))
    }

    /// Says something of the next packet.
    fn remark(&mut self, text: String) {
        match &mut self.comment {
            Some(comment) => comment.extend(["; ", &text]),
            none => *none = Some(text),
        }
    }

    fn packet(&mut self, bytes: &[u8]) -> io::Result<()> {
        let kept = &bytes[..bytes.len().min(SNAP_BYTES as usize)];
        let comment = self.comment.take().map(|text| EnhancedPacketOption::Comment(text.into()));
        let block = EnhancedPacketBlock {
            interface_id: 0,
            timestamp: self.time,
            // Lossless: an IP packet.
            original_len: bytes.len() as u32,
            data: kept.into(),
            options: comment.into_iter().collect(),
        };
        self.writer.write_pcapng_block(block).map(drop).map_err(io_error)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.target.write_all(self.writer.get_ref())?;
        self.writer.get_mut().clear();
        self.target.flush()
    }
}

/// The beginning of a packet between two addresses of one family.
fn ip_packet(from: SocketAddr, to: SocketAddr) -> io::Result<PacketBuilderStep<IpHeaders>> {
    let headers = match (from.ip(), to.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            // Length and protocol follow from what is put into it.
            let header = Ipv4Header::new(0, HOPS, IpNumber::TCP, from.octets(), to.octets());
            IpHeaders::Ipv4(header.map_err(io::Error::other)?, Default::default())
        }
        (from, to) => {
            let octets = |ip| match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
                IpAddr::V6(ip) => ip.octets(),
            };
            let header =
                Ipv6Header { hop_limit: HOPS, source: octets(from), destination: octets(to), ..Default::default() };
            IpHeaders::Ipv6(header, Default::default())
        }
    };
    Ok(PacketBuilder::ip(headers))
}

fn io_error(error: PcapError) -> io::Error {
    match error {
        PcapError::IoError(error) => error,
        other => io::Error::other(other),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::protocol::message::IpText;
    use etherparse::{SlicedPacket, TransportSlice};
    use pcap_file::pcapng::{Block, PcapNgReader};

    struct Packet {
        time: Duration,
        from: u16,
        to: u16,
        flags: String,
        sequence: u32,
        acknowledged: u32,
        data: Vec<u8>,
        comments: usize,
    }

    fn packets(file: &[u8]) -> Vec<Packet> {
        let mut reader = PcapNgReader::new(file).unwrap();
        let mut packets = Vec::new();
        while let Some(block) = reader.next_block() {
            let Block::EnhancedPacket(block) = block.unwrap() else { continue };
            assert_eq!(block.data.len(), block.original_len as usize);
            let sliced = SlicedPacket::from_ip(&block.data).unwrap();
            let (time, comments) = (block.timestamp, block.options.len());
            packets.push(match sliced.transport.unwrap() {
                TransportSlice::Tcp(tcp) => {
                    let flags = [('S', tcp.syn()), ('A', tcp.ack()), ('P', tcp.psh()), ('F', tcp.fin())];
                    Packet {
                        time,
                        from: tcp.source_port(),
                        to: tcp.destination_port(),
                        flags: flags.iter().filter(|(_, set)| *set).map(|(name, _)| *name).collect(),
                        sequence: tcp.sequence_number(),
                        acknowledged: tcp.acknowledgment_number(),
                        data: tcp.payload().to_vec(),
                        comments,
                    }
                }
                TransportSlice::Udp(udp) => Packet {
                    time,
                    from: udp.source_port(),
                    to: udp.destination_port(),
                    flags: String::new(),
                    sequence: 0,
                    acknowledged: 0,
                    data: udp.payload().to_vec(),
                    comments,
                },
                other => panic!("{other:?}"),
            });
        }
        packets
    }

    fn capture(transport: Transport, events: &[TapEvent]) -> Vec<Packet> {
        let mut file = Vec::new();
        let mut capture = Capture::new(&mut file, transport, 502).unwrap();
        for event in events {
            capture.take(&Tapped { time_us: 5, event: *event }).unwrap();
        }
        capture.end().unwrap();
        packets(&file)
    }

    #[test]
    fn a_device_is_a_whole_stream_of_short_segments() {
        for ip in ["10.0.0.1", "2001:db8::7"] {
            let device = DeviceName { ip: IpText::new(ip.parse().unwrap()), id_or_port: 3 };
            let long = vec![7; 2 * SEGMENT_BYTES_MAX + 1];
            let packets = capture(
                Transport::Tcp,
                &[
                    TapEvent::Opened { device },
                    TapEvent::Received { device, data: b"hello" },
                    TapEvent::Write { device, module: "mod-1", data: &long },
                    TapEvent::Close { device, module: "mod-1" },
                    TapEvent::Closed { device },
                ],
            );
            let flags: Vec<&str> = packets.iter().map(|packet| packet.flags.as_str()).collect();
            assert_eq!(flags, ["S", "SA", "A", "AP", "AP", "AP", "AP", "AF", "AF", "A"]);
            assert_eq!((packets[3].from, packets[3].to, packets[3].data.as_slice()), (16_387, 502, &b"hello"[..]));
            let from_start = |number: u32| number - SEQUENCE_STEP;
            let sent: Vec<(u32, u32, usize)> = packets[3..]
                .iter()
                .map(|packet| (from_start(packet.sequence), from_start(packet.acknowledged), packet.comments))
                .collect();
            let end = 1 + long.len() as u32;
            let expected =
                [(1, 1, 0), (1, 6, 1), (1441, 6, 0), (2881, 6, 0), (end, 6, 0), (6, end + 1, 0), (end + 1, 7, 0)];
            assert_eq!(sent, expected);
            assert_eq!(packets[0].time, Duration::from_micros(5));
        }
    }

    #[test]
    fn a_device_that_was_there_before_has_its_handshake_and_its_end_too() {
        let device = DeviceName { ip: IpText::new([10, 0, 0, 1].into()), id_or_port: 0 };
        let packets = capture(Transport::Tcp, &[TapEvent::Received { device, data: b"x" }]);
        let flags: Vec<&str> = packets.iter().map(|packet| packet.flags.as_str()).collect();
        assert_eq!(flags, ["S", "SA", "A", "AP", "AF", "AF", "A"]);
    }

    #[test]
    fn ids_that_begin_again_are_streams_of_their_own() {
        let device = DeviceName { ip: IpText::new([10, 0, 0, 1].into()), id_or_port: 0 };
        let opened = [TapEvent::Opened { device }, TapEvent::Received { device, data: b"x" }];
        let again = [&opened[..], &[TapEvent::PortClosed, TapEvent::PortOpen], &opened].concat();
        let packets = capture(Transport::Tcp, &again);
        let flags: Vec<&str> = packets.iter().map(|packet| packet.flags.as_str()).collect();
        assert_eq!(flags, [["S", "SA", "A", "AP", "AF", "AF", "A"]; 2].concat());
        assert_ne!(packets[0].sequence, packets[7].sequence);
    }

    #[test]
    fn a_datagram_is_one_packet_whatever_its_size() {
        let device = DeviceName { ip: IpText::new([10, 0, 0, 1].into()), id_or_port: 5_000 };
        let large = vec![1; 65_507];
        let events = [
            TapEvent::Received { device, data: &large },
            TapEvent::Dropped { count: 2 },
            TapEvent::Write { device, module: "", data: b"" },
        ];
        let packets = capture(Transport::Udp, &events);
        let ends: Vec<_> = packets.iter().map(|p| (p.from, p.to, p.data.len(), p.comments)).collect();
        assert_eq!(ends, [(5_000, 502, 65_507, 0), (502, 5_000, 0, 1)]);
    }
}
