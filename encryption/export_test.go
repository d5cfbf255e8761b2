package encryption

// ResourceNames are the resources that notices know, by group.
func ResourceNames() map[string][]string {
	names := map[string][]string{}
	for name := range coreResources {
		names[""] = append(names[""], name)
	}
	for name, group := range groupOf {
		names[group] = append(names[group], name)
	}
	return names
}
