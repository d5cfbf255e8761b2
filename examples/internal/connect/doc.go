// Package connect is what the example programs share: settings that come from flags, the environment or a file, and
// the way from such settings to a connected etcd client.
//
// An etcd client connects in the background, and whatever is wrong with addresses or certificates shows up as a call
// that never ends. Side.Dial therefore looks first: it knocks at each endpoint by itself and says which one fails, why,
// and which setting to look at.
package connect
