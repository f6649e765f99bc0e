// Command hello is all there is in the images that the tests run, besides /greeting.
package main

import (
	"fmt"
	"os"
)

func main() {
	greeting, err := os.ReadFile("/greeting")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Printf("hello, %s\n", greeting)
}
