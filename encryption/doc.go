// Package encryption is in the making.
package encryption
