// Package connect is what the example programs share: settings that come from flags, the environment or a file, and
// the way from such settings to a connected etcd client.
//
// An etcd client connects in the background, and whatever is wrong with addresses or certificates shows up as a call
// that never ends. Side.Dial therefore looks first: it knocks at each endpoint by itself and says which one fails, why,
// and which setting to look at.
//
// # How a connection lives on
//
// A client of Side.Dial keeps a connection to each endpoint, uses them in turn, and leaves out those that are down.
//
//   - A peer that vanishes without a word is noticed 14 seconds after its last sign of life: a connection that is in use and
//     silent for 10 seconds is tried, and given up 4 seconds later. One that no call uses is tried when the next call uses it.
//   - A lost connection is made again after half a second, then with growing pauses of up to 5 seconds (6 with jitter), for ever.
//     One attempt takes no longer than the side's dial timeout, by default 5 seconds.
//   - The CA file, the client certificate and its key are read again for each new connection, so that they can be replaced
//     while the program runs; connections that are open stay. A file that is missing, half-written or does not fit the others
//     leaves what was read before in use; Side.Logger is told, and so is the error of a connection that fails meanwhile.
//     The CAs of the host, which are used without a CA file, are those of the start. So are user and password; the token
//     that they are good for is renewed when it expires.
//   - Server certificates are always verified in full, the name or address of the endpoint included.
//
// Deadlines of calls are the caller's.
package connect
