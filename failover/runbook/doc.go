// Package runbook has procedures as plans of package failover.
package runbook
