// Package drcheck proves that a standby's etcd holds what the primary's holds, while both are in use.
//
// A Checker reads both sides in key order at fixed revisions, through the same filter, prefixes and transformation as the mirror
// between them, in bounded memory. A key that differs is looked at again, at the source revision that the mirror says it has
// applied, until it is found equal or is confirmed to differ: a check during traffic raises no false alarm.
// What remains is missed (in the primary only), surplus (in the standby only) or different, each with a reason where one can be known.
//
// Repair puts right what a check has found. ReadVerdict tells, from the standby alone and with a dead primary, how much was lost at most,
// and when the two were last proven equal. Handler serves checks over HTTP.
//
// No value of any key appears in a result, a report or an error: they are Secrets. Keys may.
package drcheck
