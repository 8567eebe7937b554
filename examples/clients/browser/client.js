// gRPC-Web in a page, with nothing but the browser: a frame is a byte, a length and a message; the last one holds trailers instead.
const [writer, reader] = [new TextEncoder(), new TextDecoder()];

/** The bytes of a message with one text field. */
export function textField(number, text) {
  const [bytes, length] = [writer.encode(text), []];
  for (let rest = bytes.length; length.push(rest > 127 ? (rest & 127) | 128 : rest) && rest > 127; ) rest >>>= 7;
  return [(number << 3) | 2, ...length, ...bytes];
}

/** A message's fields by number: numbers, and bytes of texts and messages. */
export function fields(bytes) {
  const [found, varint] = [{}, () => {
    let [value, shift, byte] = [0n, 0n, 128];
    for (; byte > 127; shift += 7n) value |= BigInt((byte = bytes[at++]) & 127) << shift;
    return Number(BigInt.asIntN(64, value));
  }];
  let at = 0;
  while (at < bytes.length) {
    const tag = varint();
    if ((tag & 7) === 0) found[tag >> 3] = varint();
    else if ((tag & 7) === 2) { const length = varint(); found[tag >> 3] = bytes.subarray(at, (at += length)); }
    else at += (tag & 7) === 1 ? 8 : 4;
  }
  return found;
}

/** Statistics as a page shows them, of a GetUserStatsResponse or WatchUserStatsResponse; none in a sign of life. */
export function statistics(response) {
  const { 1: stats, 2: provenance, 4: unchanged } = fields(response);
  if (unchanged) return null;
  const [{ 3: events = 0, 4: revenue = new Uint8Array() }, { 2: version = 0, 8: batch = 0, 9: speed = 0 }] = [fields(stats), fields(provenance)];
  return { events, revenue: reader.decode(revenue), version, batch, speed };
}

/** The answers to one question, as messages. Throws what the server says instead. */
export async function* answers(server, method, message, { token, signal } = {}) {
  const headers = { "content-type": "application/grpc-web+proto", "x-grpc-web": "1", ...(token && { authorization: `Bearer ${token}` }) };
  const body = new Uint8Array([0, 0, 0, message.length >> 8, message.length & 255, ...message]);
  const response = await fetch(`${server}/merganser.v1.UserStatsService/${method}`, { method: "POST", headers, body, signal });
  if (!response.ok) throw new Error(`${response.status}: ${await response.text()}`);
  end(response.headers.get("grpc-status"), response.headers.get("grpc-message"));
  const [pieces, bytes] = [response.body.getReader(), []];
  for (let { value, done } = await pieces.read(); !done; { value, done } = await pieces.read()) {
    for (const byte of value) bytes.push(byte);
    for (let size; bytes.length >= 5 && bytes.length >= (size = 5 + ((bytes[1] << 24) | (bytes[2] << 16) | (bytes[3] << 8) | bytes[4])); ) {
      const [kind, , , , , ...payload] = bytes.splice(0, size);
      if (kind < 128) { yield new Uint8Array(payload); continue; }
      const trailers = new Map(reader.decode(new Uint8Array(payload)).trim().split("\r\n").map((line) => line.split(/:\s*(.*)/)));
      end(trailers.get("grpc-status"), trailers.get("grpc-message"));
    }
  }
}

function end(status, message) {
  if (status && status.trim() !== "0") throw Object.assign(new Error(decodeURIComponent(message ?? "")), { code: Number(status) });
}
