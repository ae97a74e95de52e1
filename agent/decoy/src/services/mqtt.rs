//! An MQTT broker, 3.1, 3.1.1 and 5.0, that lets everyone in.
//!
//! Subscribers find the seed's retained topics and what they published themselves: messages reach only
//! subscribers at the publisher's own address, so that the broker carries nothing between strangers.
//! The protocol's state machine is `mqtt-protocol-core`'s.

mod broker;
mod legacy;
mod topic;

use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use mqtt_protocol_core::mqtt::common::Cursor;
use mqtt_protocol_core::mqtt::connection::{ConnectionOptions, Event as ProtocolEvent};
use mqtt_protocol_core::mqtt::packet::{
    AssignedClientIdentifier, GenericPacketTrait, MqttString, Packet, Property, Qos, SubEntry,
    TopicAliasMaximum, v3_1_1, v5_0,
};
use mqtt_protocol_core::mqtt::result_code::{
    ConnectReasonCode, ConnectReturnCode, MqttError, SubackReasonCode, SubackReturnCode, UnsubackReasonCode,
};
use mqtt_protocol_core::mqtt::{Connection as Machine, Version, role};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::broadcast::error::RecvError;

use crate::Failure;
use crate::environment::Context;
use crate::event::{Category, TEXT_CAP};
use crate::serve::{self, Connection, Session};
use broker::{Broker, Message};

/// Longest packet, and messages in flight a client may send at once (Mosquitto's own default).
const PACKET_CAP: u32 = 256 * 1024;
const RECEIVE_MAXIMUM: u16 = 20;
/// Topic filters of one connection.
const FILTERS_CAP: usize = 64;

/// Serves for ever.
///
/// # Errors
///
/// When the port cannot be bound.
pub(super) async fn run(context: Context) -> Result<(), Failure> {
    let broker = Arc::new(Broker::new(&context.identity, &context.host));
    serve::tcp(&context, move |connection, session| {
        let broker = Arc::clone(&broker);
        let options = ConnectionOptions::new()
            .maximum_packet_size_recv(PACKET_CAP)
            .receive_maximum(RECEIVE_MAXIMUM);
        let mut machine = Machine::with_options(Version::Undetermined, options);
        machine.set_auto_pub_response(true);
        machine.set_auto_ping_response(true);
        let client = Client {
            stream: connection,
            from: session.peer(),
            session,
            broker,
            machine,
            filters: Vec::new(),
            heard: false,
            legacy: false,
            closing: false,
        };
        client.run()
    })
    .await
}

struct Client {
    stream: Connection,
    session: Arc<Session>,
    from: IpAddr,
    broker: Arc<Broker>,
    machine: Machine<role::Server>,
    filters: Vec<String>,
    /// Whether anything has been received.
    heard: bool,
    /// Whether the client speaks 3.1.
    legacy: bool,
    closing: bool,
}

impl Client {
    async fn run(mut self) -> io::Result<()> {
        let mut published = self.broker.subscribe();
        let mut buffer = vec![0; 8192];
        while !self.closing {
            tokio::select! {
                count = self.stream.read(&mut buffer) => {
                    let count = count?;
                    if count == 0 {
                        return Ok(());
                    }
                    self.received(&buffer[..count]).await?;
                }
                message = published.recv() => match message {
                    Ok(message) if message.from == self.from => self.deliver(&message, false).await?,
                    // Too slow a reader misses messages, as it would at QoS 0.
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return Ok(()),
                },
            }
        }
        self.stream.shutdown().await
    }

    async fn received(&mut self, bytes: &[u8]) -> io::Result<()> {
        // Everything begins with a CONNECT (MQTT 5.0 §3.1); what does not is not worth waiting for.
        if !self.heard && bytes.first().is_some_and(|head| head >> 4 != 1) {
            self.rubbish(MqttError::ProtocolError, bytes);
            self.closing = true;
            return Ok(());
        }
        let translated = if self.heard {
            None
        } else {
            legacy::translate(bytes)
        };
        self.heard = true;
        self.legacy |= translated.is_some();
        let bytes = translated.as_deref().unwrap_or(bytes);
        let mut cursor = Cursor::new(bytes);
        let mut position = None;
        // A machine that takes nothing more is done with these bytes.
        while !self.closing && cursor.position() < bytes.len() as u64 && position != Some(cursor.position()) {
            position = Some(cursor.position());
            let events = self.machine.recv(&mut cursor);
            self.obey(events, bytes).await?;
        }
        Ok(())
    }

    /// Does what the state machine asks. Its timers are not kept: the connection's idle timeout stands
    /// for them.
    async fn obey(&mut self, events: Vec<ProtocolEvent>, bytes: &[u8]) -> io::Result<()> {
        for event in events {
            match event {
                ProtocolEvent::RequestSendPacket { packet, .. } => {
                    self.stream.write_all(&packet.to_continuous_buffer()).await?;
                }
                ProtocolEvent::NotifyPacketReceived(packet) => self.packet(packet).await?,
                ProtocolEvent::NotifyError(error) => {
                    self.rubbish(error, bytes);
                    self.closing = true;
                }
                ProtocolEvent::RequestClose => self.closing = true,
                ProtocolEvent::NotifyPacketIdReleased(_)
                | ProtocolEvent::RequestTimerReset { .. }
                | ProtocolEvent::RequestTimerCancel(_) => {}
            }
        }
        Ok(())
    }

    fn rubbish(&self, error: MqttError, bytes: &[u8]) {
        self.session
            .event("garbage", Category::Network)
            .of_type("error")
            .outcome(false)
            .field("event.reason", format!("{error:?}"))
            .text("decnet.payload", bytes)
            .emit();
    }

    async fn packet(&mut self, packet: Packet) -> io::Result<()> {
        match packet {
            Packet::V3_1_1Connect(connect) => {
                let login = Login {
                    version: if self.legacy { "3.1" } else { "3.1.1" },
                    client: connect.client_id(),
                    user: connect.user_name(),
                    password: connect.password(),
                    will: connect.will_topic().zip(connect.will_payload()),
                };
                login.log(&self.session);
                let reply = v3_1_1::Connack::builder()
                    .return_code(ConnectReturnCode::Accepted)
                    .session_present(false);
                self.send(reply.build().map(Packet::V3_1_1Connack)).await
            }
            Packet::V5_0Connect(connect) => self.connect_v5(&connect).await,
            Packet::V3_1_1Subscribe(subscribe) => {
                let granted = self.subscribe(subscribe.entries());
                let codes = granted.iter().map(|qos| match qos {
                    Some(Qos::AtMostOnce) => SubackReturnCode::SuccessMaximumQos0,
                    Some(Qos::AtLeastOnce) => SubackReturnCode::SuccessMaximumQos1,
                    Some(Qos::ExactlyOnce) => SubackReturnCode::SuccessMaximumQos2,
                    None => SubackReturnCode::Failure,
                });
                let reply = v3_1_1::Suback::builder()
                    .packet_id(subscribe.packet_id())
                    .return_codes(codes.collect());
                self.send(reply.build().map(Packet::V3_1_1Suback)).await?;
                self.retained(subscribe.entries()).await
            }
            Packet::V5_0Subscribe(subscribe) => {
                let granted = self.subscribe(subscribe.entries());
                let codes = granted.iter().map(|qos| match qos {
                    Some(Qos::AtMostOnce) => SubackReasonCode::GrantedQos0,
                    Some(Qos::AtLeastOnce) => SubackReasonCode::GrantedQos1,
                    Some(Qos::ExactlyOnce) => SubackReasonCode::GrantedQos2,
                    None => SubackReasonCode::QuotaExceeded,
                });
                let reply = v5_0::Suback::builder()
                    .packet_id(subscribe.packet_id())
                    .reason_codes(codes.collect());
                self.send(reply.build().map(Packet::V5_0Suback)).await?;
                self.retained(subscribe.entries()).await
            }
            Packet::V3_1_1Unsubscribe(unsubscribe) => {
                self.unsubscribe(unsubscribe.entries().iter().map(MqttString::as_str));
                let reply = v3_1_1::Unsuback::builder().packet_id(unsubscribe.packet_id());
                self.send(reply.build().map(Packet::V3_1_1Unsuback)).await
            }
            Packet::V5_0Unsubscribe(unsubscribe) => {
                self.unsubscribe(unsubscribe.entries().iter().map(MqttString::as_str));
                let codes = vec![UnsubackReasonCode::Success; unsubscribe.entries().len()];
                let reply = v5_0::Unsuback::builder()
                    .packet_id(unsubscribe.packet_id())
                    .reason_codes(codes);
                self.send(reply.build().map(Packet::V5_0Unsuback)).await
            }
            Packet::V3_1_1Publish(publish) => {
                self.publish(
                    publish.topic_name(),
                    publish.payload().as_slice(),
                    publish.qos(),
                    publish.retain(),
                );
                Ok(())
            }
            Packet::V5_0Publish(publish) => {
                self.publish(
                    publish.topic_name(),
                    publish.payload().as_slice(),
                    publish.qos(),
                    publish.retain(),
                );
                Ok(())
            }
            Packet::V3_1_1Disconnect(_) | Packet::V5_0Disconnect(_) => {
                self.closing = true;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    async fn connect_v5(&mut self, connect: &v5_0::Connect) -> io::Result<()> {
        let login = Login {
            version: "5.0",
            client: connect.client_id(),
            user: connect.user_name(),
            password: connect.password(),
            will: connect.will_topic().zip(connect.will_payload()),
        };
        login.log(&self.session);
        let mut properties: Vec<Property> = Vec::new();
        if connect.client_id().is_empty()
            && let Ok(assigned) = AssignedClientIdentifier::new(broker::assigned_id()?)
        {
            properties.push(assigned.into());
        }
        if let Ok(aliases) = TopicAliasMaximum::new(10) {
            properties.push(aliases.into());
        }
        let reply = v5_0::Connack::builder()
            .reason_code(ConnectReasonCode::Success)
            .session_present(false)
            .props(properties);
        self.send(reply.build().map(Packet::V5_0Connack)).await
    }

    /// Adds filters, as many as there is room for; the granted QoS of each, or `None`.
    fn subscribe(&mut self, entries: &[SubEntry]) -> Vec<Option<Qos>> {
        let granted = entries.iter().enumerate().map(|(index, entry)| {
            // One packet may hold tens of thousands of filters; neither the log nor memory need them.
            if index >= FILTERS_CAP {
                return None;
            }
            let filter = entry.topic_filter();
            let known = self.filters.iter().any(|known| known == filter);
            let room = known || self.filters.len() < FILTERS_CAP;
            self.session
                .event("subscribe", Category::Network)
                .outcome(room)
                .text("decnet.mqtt.topic", filter)
                .field("decnet.mqtt.qos", entry.sub_opts().qos() as u8)
                .emit();
            if room && !known {
                self.filters.push(filter.to_owned());
            }
            room.then(|| entry.sub_opts().qos())
        });
        granted.collect()
    }

    fn unsubscribe<'a>(&mut self, filters: impl Iterator<Item = &'a str>) {
        for filter in filters.take(FILTERS_CAP) {
            self.session
                .event("unsubscribe", Category::Network)
                .text("decnet.mqtt.topic", filter)
                .emit();
            self.filters.retain(|known| known != filter);
        }
    }

    async fn retained(&mut self, entries: &[SubEntry]) -> io::Result<()> {
        for message in self.broker.retained(self.from) {
            if entries
                .iter()
                .any(|entry| topic::matches(entry.topic_filter(), &message.topic))
            {
                self.deliver(&message, true).await?;
            }
        }
        Ok(())
    }

    fn publish(&self, topic: &str, payload: &[u8], qos: Qos, retain: bool) {
        self.session
            .event("publish", Category::Network)
            .text("decnet.mqtt.topic", topic)
            .text("decnet.payload", &payload[..payload.len().min(TEXT_CAP)])
            .field("decnet.mqtt.payload_bytes", payload.len())
            .field("decnet.mqtt.qos", qos as u8)
            .field("decnet.mqtt.retain", retain)
            .emit();
        let message = Message {
            from: self.from,
            topic: topic.to_owned(),
            payload: payload.to_vec(),
        };
        self.broker.publish(message, retain);
    }

    /// Sends a message at QoS 0 to this client, if it asked for the topic.
    async fn deliver(&mut self, message: &Message, retained: bool) -> io::Result<()> {
        if !self
            .filters
            .iter()
            .any(|filter| topic::matches(filter, &message.topic))
        {
            return Ok(());
        }
        let packet = if self.machine.get_protocol_version() == Version::V5_0 {
            v5_0::Publish::builder()
                .topic_name(message.topic.as_str())
                .and_then(|builder| {
                    builder
                        .qos(Qos::AtMostOnce)
                        .retain(retained)
                        .payload(message.payload.clone())
                        .build()
                })
                .map(Packet::V5_0Publish)
        } else {
            v3_1_1::Publish::builder()
                .topic_name(message.topic.as_str())
                .and_then(|builder| {
                    builder
                        .qos(Qos::AtMostOnce)
                        .retain(retained)
                        .payload(message.payload.clone())
                        .build()
                })
                .map(Packet::V3_1_1Publish)
        };
        self.send(packet).await
    }

    /// Hands a packet to the state machine, and writes what that makes of it.
    async fn send(&mut self, packet: Result<Packet, MqttError>) -> io::Result<()> {
        let packet =
            packet.map_err(|error| io::Error::other(format!("an answer could not be built: {error:?}")))?;
        for event in self.machine.send(packet) {
            match event {
                ProtocolEvent::RequestSendPacket { packet, .. } => {
                    self.stream.write_all(&packet.to_continuous_buffer()).await?;
                }
                ProtocolEvent::RequestClose => self.closing = true,
                _ => {}
            }
        }
        Ok(())
    }
}

/// What a CONNECT says of its sender.
struct Login<'a> {
    version: &'static str,
    client: &'a str,
    user: Option<&'a str>,
    password: Option<&'a [u8]>,
    will: Option<(&'a str, &'a [u8])>,
}

impl Login<'_> {
    fn log(&self, session: &Session) {
        session
            .event("login", Category::Authentication)
            .outcome(true)
            .maybe("user.name", self.user)
            .maybe("decnet.password", self.password)
            .text("decnet.mqtt.client_id", self.client)
            .field("decnet.mqtt.version", self.version)
            .maybe("decnet.mqtt.will_topic", self.will.map(|(topic, _)| topic))
            .maybe("decnet.mqtt.will_payload", self.will.map(|(_, payload)| payload))
            .emit();
    }
}
